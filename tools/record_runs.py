"""Record the results of six small runs, to verify that a refactoring changed no number.

Run it before and after, and compare the two files:

    python tools/record_runs.py before.json
    python tools/record_runs.py after.json
    python tools/record_runs.py --compare before.json after.json

The runs (a few minutes on two cores): the full recipe, three comparison methods with different kinds of heads, a study, and a run
that is resumed with more epochs. Records all points of all metrics except those of time and memory, the paths of all artifacts,
hashes of the gap tables, and hashes of the trained weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ("--preset", "quick", "--epochs", "2")
RUNS: dict[str, tuple[str, ...]] = {
    "main": ("main", "--preset", "quick"),
    "ogm_ge": ("train", "--method", "ogm_ge", *TRAIN),
    "mla": ("train", "--method", "mla", *TRAIN),
    "g_blending": ("train", "--method", "g_blending", *TRAIN),
    "study": ("study", "--preset", "quick", "--trials", "2", "--workers", "1", "--sampler", "random"),
    "resumed": ("train", "--method", "pmr", *TRAIN),
}
RESUME = ("train", "--epochs", "3", "--resume_run")
MEASURED = re.compile(r"time/|cost/step_milliseconds|cost/peak_memory|train/samples_per_second|study/minutes|system/")
"""Metrics that depend on the machine and its load."""
RANDOM = re.compile(r"timestamp\+\d+\+[0-9a-f-]{36}|-[0-9a-f]{6}(?=[ -]|$)")
"""Text that differs between runs: MLflow's image names, and the code digest in a study's name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="where to write the record; with --compare, two records")
    parser.add_argument("--compare", action="store_true", help="compare two records instead")
    arguments = parser.parse_args()
    if arguments.compare:
        sys.exit(compare(*arguments.files))
    with tempfile.TemporaryDirectory() as folder:
        arguments.files[0].write_text(json.dumps(record(Path(folder)), indent=1, sort_keys=True), "utf-8")


def record(folder: Path) -> dict[str, Any]:
    """Train all runs in ``folder``; return experiment -> run name -> results."""
    uri = f"sqlite:///{folder}/mlflow.db"
    results: dict[str, Any] = {}
    for name, (entry_point, *arguments) in RUNS.items():
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_EXPERIMENT_NAME": name,
            "MM_BALANCE_CACHE": str(folder / "cache" / name),
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "PYTHONPATH": str(ROOT),
        }

        def run(entry_point: str, *arguments: str, environment: dict[str, str] = environment) -> None:
            command = [sys.executable, "-m", f"entrypoints.{entry_point}", *arguments]
            subprocess.run(command, env=environment, cwd=folder, check=True, stdout=sys.stderr)

        run(entry_point, *arguments)
        if name == "resumed":
            run(*RESUME, next(run_id for run_id, _ in runs_of(uri, name)))
        results[name] = {
            f"{run_name} #{index}": content for index, (run_name, content) in enumerate(contents(uri, name))
        }
    return results


def runs_of(uri: str, experiment: str) -> list[tuple[str, str]]:
    """Return ids and names of an experiment's runs, oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    runs = client.search_runs([experiment_id], order_by=["attributes.start_time ASC"])
    return [(run.info.run_id, run.info.run_name) for run in runs]


def contents(uri: str, experiment: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (run name, recorded results) of an experiment's runs."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return [(name, _content(client, run_id)) for run_id, name in runs_of(uri, experiment)]


def _content(client: Any, run_id: str) -> dict[str, Any]:
    run = client.get_run(run_id)
    series = {
        name: [[item.step, item.value] for item in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
        if not MEASURED.match(name)
    }
    paths, pending = [], [""]
    while pending:
        for item in client.list_artifacts(run_id, pending.pop()):
            (pending if item.is_dir else paths).append(item.path)
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            path: _table(client.download_artifacts(run_id, path, folder))
            for path in paths
            if path.endswith("gaps.parquet")
        }
        weights = {
            path: _weights(client.download_artifacts(run_id, path, folder))
            for path in paths
            if path.startswith("checkpoints/")
        }
    return {"metrics": series, "artifacts": sorted(paths), "tables": tables, "weights": weights}


def _table(path: str) -> str:
    import pandas as pd

    return hashlib.sha256(pd.read_parquet(path).to_csv(float_format="%.17g").encode()).hexdigest()


def _weights(path: str) -> str:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def compare(before: Path, after: Path) -> int:
    """Print all differences; return 1 if there are any, else 0."""
    old, new = (json.loads(RANDOM.sub("*", path.read_text("utf-8"))) for path in (before, after))
    points = differences = 0

    def walk(where: str, left: Any, right: Any) -> None:
        nonlocal points, differences
        if isinstance(left, dict) and isinstance(right, dict):
            for name in sorted(left.keys() | right.keys()):
                walk(f"{where}/{name}", left.get(name), right.get(name))
            return
        points += len(left) if isinstance(left, list) else 1
        if left != right:
            differences += 1
            print(f"{where}:\n  before {left}\n  after  {right}")

    walk("", old, new)
    print(f"{points} numbers, paths and hashes compared; {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    main()
