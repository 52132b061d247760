"""All methods on `digits`: equal epochs, one selection rule, tuned alike on validation, by one command that goes on where it stopped.

    python -m analysis.leaderboard --seeds 3 --processes 2

Every method gets the same number of trials, of its main option, on a seed of its own; the best validation accuracy at the last epoch
decides. Then it is trained on the seeds of the table. Methods that follow a warm-up share its run, whose epochs count. Runs go to the
MLflow experiment ``leaderboard``. Test data are read once per finished run, for the table alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.first_result import TUNING_SEED, _single_thread
from analysis.tables import ROW_TAG, finished_run, spread
from mm_balance.config import resolve
from mm_balance.methods import METHODS
from mm_balance.tracking.query import find_runs

EXPERIMENT = "leaderboard"
GRIDS: dict[str, tuple[str, ...]] = {
    "concat_unimodal": ("unimodal_weight=0.5", "unimodal_weight=1.0", "unimodal_weight=2.0"),
    "ensemble": ("mean_of=probabilities", "mean_of=logits"),
    "g_blending": ("horizon=3", "horizon=6", "horizon=18"),
    "ogm": ("alpha=0.1", "alpha=0.3", "alpha=0.8"),
    "ogm_ge": ("alpha=0.1", "alpha=0.3", "alpha=0.8"),
    "greedy": ("threshold=0.001", "threshold=0.01", "threshold=0.1"),
    "pmr": ("alpha=0.5", "alpha=1.0", "alpha=2.0"),
    "agm": ("alpha=0.3", "alpha=1.0", "alpha=2.5"),
    "mla": ("projection=rls_norm", "projection=official", "projection=none"),
    "diagnose_relearn": ("every=4,strength=1", "every=4,strength=3", "every=8,strength=3"),
    "opm": ("quiet_epochs=2,drop_base=0.3", "quiet_epochs=2,drop_base=0.5", "quiet_epochs=2,drop_base=0.7"),
    "opm_ogm": ("quiet_epochs=2,alpha=0.1", "quiet_epochs=2,alpha=0.3", "quiet_epochs=2,alpha=0.8"),
    "gap_mixture": ("unimodal_weight=1.0", "unimodal_weight=2.0", "unimodal_weight=4.0"),
    "purified": ("threshold=0.3", "threshold=0.5", "threshold=0.8"),
    "mmcosine": ("scale=5", "scale=10", "scale=20"),
    "mmpareto": ("gamma=1.0", "gamma=1.5", "gamma=2.5"),
    "umt": ("distillation=1", "distillation=10", "distillation=50"),
    "sample_valuation": ("level=sample,quiet_epochs=2", "level=sample,quiet_epochs=5", "level=modality,quiet_epochs=2"),
    "focal": ("focus=1", "focus=2", "focus=4"),
    "lfm": ("stretch=true", "stretch=false", "stretch=true,divergence=true"),
    "reconboost": ("phase_epochs=1", "phase_epochs=2", "phase_epochs=4"),
    "cml": ("calibration=0.1", "calibration=1", "calibration=10"),
    "amco": ("limit=0.3", "limit=1", "limit=3"),
    "mbsd": ("strength=0.3", "strength=1", "strength=3"),
}
"""Method -> its trials; a method without an entry has nothing to tune."""
COLUMNS = ("accuracy", "accuracy_audio", "accuracy_visual", "imbalance_degree")


@dataclass(frozen=True)
class Task:
    """One training; ``method`` empty = the warm-up that methods of that seed share."""

    seed: int
    preset: str
    method: str = ""
    options: str = ""
    row: str = ""
    test: bool = False


def main() -> None:
    """Tune, train what is missing, collect, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="auto", help="`quick` only tries the command out")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; default all")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    methods = given.methods.split(",")
    os.environ["TQDM_DISABLE"] = "1"  # read by the processes that train
    os.environ["MLFLOW_EXPERIMENT_NAME"] = EXPERIMENT if given.preset == "auto" else f"{EXPERIMENT}-{given.preset}"
    from mm_balance.tracking.runs import prepare_store

    prepare_store()
    trials = [
        Task(TUNING_SEED, given.preset, method, options, f"tuning {method} {options}")
        for method in methods
        for options in GRIDS.get(method, ())
    ]
    run_all(trials, given.processes)
    chosen = {method: _best_trial(method) for method in methods}
    final = [
        Task(seed, given.preset, method, chosen[method], method, test=True)
        for method in methods
        for seed in range(given.seeds)
    ]
    run_all(final, given.processes)
    frame = collect(os.environ["MLFLOW_EXPERIMENT_NAME"], methods)
    given.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(given.out / "leaderboard.csv", index=False)
    (given.out / "leaderboard.md").write_text("\n".join(page(frame, chosen)), "utf-8")


def run_all(tasks: Sequence[Task], processes: int) -> None:
    """First the warm-ups that the tasks share, then the tasks; one thread per process, so that runs repeat exactly."""
    warmups = list(dict.fromkeys(Task(task.seed, task.preset) for task in tasks if METHODS[task.method].needs_warmup))
    for phase in (warmups, tasks):
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _single_thread) as pool:
            futures = {pool.submit(_run_task, task): task for task in phase}
            for done, future in enumerate(as_completed(futures), 1):
                task = futures[future]
                name = task.row or "warm-up"
                print(f"[{done}/{len(phase)}] {name} seed {task.seed}: {future.result()}", flush=True)


def _run_task(task: Task) -> str:
    from mm_balance.tracking.runs import open_run
    from mm_balance.workflow.runners import choose_warmup, find_matching_warmup, run_evaluate, run_train, run_warmup
    from mm_balance.workflow.setup import read_data

    def never() -> bool:
        return False

    config = resolve({"preset": task.preset, "seed": task.seed, "device": "cpu"})
    data = read_data(config)
    if not task.method:
        if find_matching_warmup(config, data) is not None:
            return "already there"
        result = run_warmup(config, data, open_run(f"warmup seed {task.seed}"), never)
        return f"gap {result.progress.points[-1].metrics['gap/mean']:+.3f}"
    if finished_run(os.environ["MLFLOW_EXPERIMENT_NAME"], task.row, task.seed) is not None:
        return "already there"
    needs_warmup = METHODS[task.method].needs_warmup
    config = resolve(
        {
            "preset": task.preset, "seed": task.seed, "device": "cpu", "method": task.method,
            "method_options": task.options or None,
            # The warm-up's epochs count.
            "epochs": config.epochs - config.warmup_epochs if needs_warmup else config.epochs,
        }
    )  # fmt: skip
    run = open_run(f"{task.row} seed {task.seed}")
    result = run_train(config, data, run, never, choose_warmup(config, data) if needs_warmup else None)
    line = f"val {result.progress.points[-1].metrics['val/accuracy']:.4f}"
    if task.test:
        tested = run_evaluate(run, "test", data, open_run(f"evaluate {task.row} seed {task.seed}", parent=run), "cpu")
        line += f", test {tested['test/accuracy']:.4f}"
    run.set_tags({ROW_TAG: task.row})  # last: only a run that is complete counts
    return line


def _best_trial(method: str) -> str:
    """The trial with the best validation accuracy at the last epoch; the first of equals."""
    scores = {}
    for options in GRIDS.get(method, ()):
        run = finished_run(os.environ["MLFLOW_EXPERIMENT_NAME"], f"tuning {method} {options}", TUNING_SEED)
        assert run is not None
        scores[options] = run.metrics["val/accuracy"]
    return max(scores, key=lambda options: scores[options]) if scores else ""


def collect(experiment: str, methods: Sequence[str]) -> pd.DataFrame:
    """One line per method and seed: test accuracies, imbalance, seconds and encoder work of all its epochs."""
    tests = {run.tags["mm.evaluated_run"]: run for run in find_runs(experiment, {"mm.stage": "evaluate"})}
    every = {run.run_id: run for run in find_runs(experiment)}
    lines = {}
    for run in every.values():
        row = run.tags.get(ROW_TAG)
        if row not in methods or run.run_id not in tests or (row, run.tags["mm.seed"]) in lines:
            continue
        line: dict[str, Any] = {"method": row, "seed": int(run.tags["mm.seed"]), "run": run.run_id}
        line |= {name: tests[run.run_id].metrics[f"test/{name}"] for name in COLUMNS}
        stages = [run, *([every[run.tags["mm.warmup_run"]]] if "mm.warmup_run" in run.tags else [])]
        line["seconds"] = sum(stage.metrics["time/training_seconds"] for stage in stages)
        work, before = 0.0, 0.0
        for stage in reversed(stages):  # the warm-up first: its last epoch is where the method begins
            epochs = stage.metrics["selection/last_epoch"] - before
            work, before = work + epochs * stage.metrics["cost/relative"], stage.metrics["selection/last_epoch"]
        line["cost"] = work / before
        lines[row, run.tags["mm.seed"]] = line
    frame = pd.DataFrame(lines.values())
    return frame.sort_values(["method", "seed"], ignore_index=True)


def page(frame: pd.DataFrame, chosen: Mapping[str, str]) -> list[str]:
    """The table as markdown, best fused accuracy first."""
    import torch

    means = frame.groupby("method")["accuracy"].mean().sort_values(ascending=False)
    lines = [
        "# Leaderboard on `digits`",
        "",
        f"Written by `python -m analysis.leaderboard` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, one thread per run, "
        f"torch {torch.__version__}). Test accuracy in %, mean ± standard deviation over seeds "
        f"{sorted(frame['seed'].unique().tolist())}. Equal epochs, warm-up included; the last epoch is scored; options tuned on "
        f"validation with the same number of trials (seed {TUNING_SEED}). Nothing was chosen on test data. Imbalance degree: "
        "difference of the modalities' Shapley values on test. Cost: encoder passes relative to joint training.",
        "",
        "| method | fused | audio | visual | imbalance degree | seconds | cost | options |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for method in means.index:
        part = frame[frame["method"] == method]
        cells = [f"`{method}`", *(spread(part[name], 100) for name in COLUMNS[:3])]
        cells += [
            spread(part["imbalance_degree"], digits=2),
            f"{part['seconds'].mean():.0f}",
            f"{part['cost'].mean():.2f}",
        ]
        lines.append("| " + " | ".join([*cells, f"`{chosen[method]}`" if chosen[method] else ""]) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
