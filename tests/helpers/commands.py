"""Commands in this process, and the runs that they leave in the present store.

What starts a command is named here and nowhere else in the tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mm_balance.commands import COMMANDS

QUICK = "preset=quick device=cpu train_fraction=0.05"
"""The smallest training that a preset and one parameter give."""


def call(entry_point: str, words: list[str]) -> int:
    """Run an entry point with its command line, as `python -m entrypoints.NAME` does; its exit status."""
    return COMMANDS[entry_point](words)


def spelled(words: str = "", **more: object) -> list[str]:
    """``name=value`` words, values with spaces by keyword, as a command line."""
    pairs = [*(word.split("=", 1) for word in words.split()), *more.items()]
    return [part for name, value in pairs for part in (f"--{name}", str(value))]


def do(entry_point: str, words: str = "", **more: object) -> int:
    """Run a command with ``name=value`` words (values with spaces by keyword); its exit status."""
    return call(entry_point, spelled(words, **more))


def adopt(monkeypatch, entry_point: str, words: str = "", **more: object) -> tuple[int, Run]:
    """The same in a run that is there already and has the raw words as parameters, as `mlflow run` makes one."""
    client = MlflowClient()
    made = client.create_run("0").info.run_id
    given = spelled(words, **more)
    for name, value in zip(given[::2], given[1::2], strict=True):
        client.log_param(made, name.removeprefix("--"), value)
    with monkeypatch.context() as environment:
        environment.setenv("MLFLOW_RUN_ID", made)
        status = call(entry_point, given)
    return status, client.get_run(made)


def runs(**tags: str) -> list[Run]:
    """Runs with these tags (``mm.`` left out), oldest first."""
    client = MlflowClient()
    found = client.search_runs([item.experiment_id for item in client.search_experiments()])
    wanted = [run for run in found if all(run.data.tags.get(f"mm.{name}") == value for name, value in tags.items())]
    return sorted(wanted, key=lambda run: run.info.start_time)


def newest(**tags: str) -> Run:
    return runs(**tags)[-1]


def by_stage() -> dict[str, Run]:
    """The newest run of every stage."""
    return {run.data.tags.get("mm.stage"): run for run in runs()}


def fetch(run: Run, path: str, folder: Path | None = None) -> Path:
    """A copy of an artifact."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return Path(MlflowClient().download_artifacts(run.info.run_id, path, None if folder is None else str(folder)))


def artifact_folder(run: Run) -> Path:
    """Where a store in a file keeps the artifacts of a run."""
    return Path(unquote(urlparse(run.info.artifact_uri).path))


def artifacts(run: Run, folder: str = "") -> set[str]:
    return {item.path for item in MlflowClient().list_artifacts(run.info.run_id, folder)}


def images(run: Run) -> list[str]:
    """The pictures of the densities that the run's page shows by step."""
    pictures = artifacts(run, "images")
    return sorted(path for path in pictures if path.startswith("images/gmm~density+") and path.endswith(".png"))


def config_of(run: Run) -> dict[str, object]:
    return json.loads(fetch(run, "config.json").read_text())


def steps(run: Run, name: str = "val/accuracy") -> list[int]:
    return [point.step for point in MlflowClient().get_metric_history(run.info.run_id, name)]


def values(
    run: Run, names=("val/accuracy", "val/loss", "train/loss", "gap/mean")
) -> dict[str, list[tuple[int, float]]]:
    client = MlflowClient()
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in names
    }


MEASURED = ("train/samples_per_second", "cost/step_milliseconds", "cost/peak_memory_megabytes")
"""What is of the machine, not of the training, beside ``time/...``."""


def series_of(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run, times and memory left out; a step twice is an error."""
    names = [name for name in run.data.metrics if not name.startswith("time/") and name not in MEASURED]
    found = values(run, names)
    for name, points in found.items():
        assert len(points) == len({step for step, _ in points}), f"{name} has a step twice"
    return found


def series() -> dict[tuple[str, str], list[tuple[int, float]]]:
    """``series_of`` the newest run of every stage."""
    return {(stage, name): points for stage, run in by_stage().items() for name, points in series_of(run).items()}
