"""Time saved by a study: forty trials against forty full runs and against an unpruned study, two at a time.

    python -m benchmarks.study --trials 40

All runs go to the MLflow experiment ``study-benchmark``. Times are compared, so use an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument(
        "--full_runs", type=int, default=8, help="number of full runs to time; the total is extrapolated from them"
    )
    parser.add_argument("--preset", default="auto")
    arguments = parser.parse_args()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "study-benchmark"
    os.environ["TQDM_DISABLE"] = "1"
    from mm_balance.tracking.lookup import prepare_store

    prepare_store()
    print(f"overhead of a trial, tracking included: {time_overhead(50):.3f} s")
    full = time_full_runs(arguments.full_runs, arguments.preset) * arguments.trials / arguments.full_runs
    print(f"{arguments.trials} full runs, two at a time: {full / 60:.1f} minutes ({arguments.full_runs} timed)")
    for pruner in ("hyperband", "median", "none"):
        seconds, numbers = time_study(arguments.trials, arguments.preset, pruner)
        print(
            f"study, pruner {pruner}: {seconds / 60:.1f} minutes = {seconds / full:.2f} of that; epochs "
            f"{numbers['study/epochs']:.0f} = {numbers['study/epochs_share']:.2f}; best {numbers['study/best_value']:.4f}; "
            f"{numbers['study/trials_complete']:.0f} complete, {numbers['study/trials_pruned']:.0f} pruned"
        )


def time_full_runs(runs: int, preset: str) -> float:
    """Time ``runs`` warm-ups followed by an adaptive stage as in `main`, with random loss weights, two at a time; seconds."""
    draw = random.Random(0)
    jobs = [(preset, 100 + index, 10 ** draw.uniform(-1.3, 0.7)) for index in range(runs)]
    started = time.perf_counter()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), _one_thread) as pool:
        list(pool.map(_full_run, jobs))
    return time.perf_counter() - started


def time_study(trials: int, preset: str, pruner: str) -> tuple[float, dict[str, float]]:
    """Time a study including its warm-up; return seconds and the metrics of its run."""
    from mm_balance.tracking.query import find_runs

    name = f"benchmark-{pruner}-{int(time.time())}"
    options = ["--study_name", name, "--trials", str(trials), "--pruner", pruner, "--preset", preset, "--workers", "2"]
    started = time.perf_counter()
    command = [sys.executable, "-m", "entrypoints.study", *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    (run,) = find_runs("study-benchmark", {"mm.study": name, "mm.stage": "study"})
    return seconds, dict(run.metrics)


def time_overhead(trials: int) -> float:
    """Time a trial that trains nothing but logs like a real one, with one worker and a journal file; seconds per trial."""
    from mm_balance.config import StudyConfig, apply_preset
    from mm_balance.data import MultimodalData
    from mm_balance.engine.recorder import MetricPoint
    from mm_balance.study.handle import make_study
    from mm_balance.study.settings import new_settings
    from mm_balance.study.worker import run_worker
    from mm_balance.testing import tiny_data
    from mm_balance.tracking.environment import environment
    from mm_balance.tracking.lookup import open_run
    from mm_balance.workflow.card import log_data

    def train(config, data: MultimodalData, run, stop, on_point):
        run.log_config(config.values())
        log_data(run, data, "training")
        run.log_json(environment(), "environment.json")
        metrics = {"val/accuracy": 1 - abs(config.gap_mixture.gap_weight - 0.7) / 10}
        for epoch in range(12):
            point = MetricPoint(
                epoch, int(time.time() * 1000), {**metrics, **{f"val/filler_{index}": 0.0 for index in range(20)}}
            )
            run.log_points([point])
            on_point(point)
        return metrics

    data = tiny_data()
    study = StudyConfig(space=None, search="anneal_and_weights", pruner="none")
    settings = new_settings(study, apply_preset({}), threads=1, data_digest=data.digest, given=set())
    name = f"overhead-{int(time.time())}"
    handle = make_study(name, "auto", settings, open_run(f"study {name}"), trials)
    started = time.perf_counter()
    run_worker(handle, data, lambda: False, device="cpu", label="cpu", train=train)
    return (time.perf_counter() - started) / trials


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _full_run(confirmation: tuple[str, int, float]) -> None:
    from mm_balance.config import resolve
    from mm_balance.tracking.lookup import open_run
    from mm_balance.workflow.plans import adaptive_plan, warmup_plan
    from mm_balance.workflow.runs import run_stage
    from mm_balance.workflow.setup import read_data

    preset, seed, weight = confirmation
    config = resolve({"preset": preset, "seed": seed, "gap_weight": weight, "device": "cpu"})
    data = read_data(config)
    warmup = open_run(f"full {seed} warm-up")
    run_stage(warmup_plan(config), data, warmup, lambda: False)
    run_stage(adaptive_plan(config), data, open_run(f"full {seed}"), lambda: False, warmup)


if __name__ == "__main__":
    main()
