"""All methods on `digits`: equal epochs, one selection rule, tuned alike on validation, by one command that goes on where it stopped.

    python -m analysis.leaderboard --seeds 3 --processes 2

Every method gets the same number of trials, of its main option, on a seed of its own; the best validation accuracy at the last epoch
decides. Then it is trained on the seeds of the table. Methods that follow a warm-up share its run, whose epochs count. Runs go to the
MLflow experiment ``leaderboard``. Test data are read once per finished run, for the table alone.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import campaign
from analysis.tables import ROW_TAG, spread
from mm_balance.config import resolve
from mm_balance.methods import METHODS
from mm_balance.tracking.query import find_runs
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.runners import choose_warmup, run_train
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.stage import StageResult

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
    given = campaign.begin(__doc__, EXPERIMENT, 3, methods=",".join(METHODS))
    methods = given.methods.split(",")
    trials = [
        Task(campaign.TUNING_SEED, given.preset, method, options, f"tuning {method} {options}")
        for method in methods
        for options in GRIDS.get(method, ())
    ]
    _run_all(trials, given.processes)
    chosen = {method: campaign.best_of(method, GRIDS.get(method, ())) for method in methods}
    final = [
        Task(seed, given.preset, method, chosen[method], method, test=True)
        for method in methods
        for seed in range(given.seeds)
    ]
    _run_all(final, given.processes)
    frame = collect(campaign.experiment(), methods)
    given.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(given.out / "leaderboard.csv", index=False)
    (given.out / "leaderboard.md").write_text("\n".join(page(frame, chosen)), "utf-8")


def _run_all(tasks: Sequence[Task], processes: int) -> None:
    warmups = [Task(task.seed, task.preset) for task in tasks if METHODS[task.method].needs_warmup]
    campaign.run_all(warmups, tasks, _run_task, processes)


def _run_task(task: Task) -> str:
    config = resolve({"preset": task.preset, "seed": task.seed, "device": "cpu"})
    data = read_data(config)
    if not task.method:
        return campaign.train_warmup(config, data)
    needs_warmup = METHODS[task.method].needs_warmup
    config = resolve(
        {
            "preset": task.preset, "seed": task.seed, "device": "cpu", "method": task.method,
            "method_options": task.options or None,
            # The warm-up's epochs count.
            "epochs": config.epochs - config.warmup_epochs if needs_warmup else config.epochs,
        }
    )  # fmt: skip

    def train(run: TrackedRun) -> StageResult:
        return run_train(config, data, run, campaign.never, choose_warmup(config, data) if needs_warmup else None)

    return campaign.train_row(task, data, train, test=task.test)


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
        f"validation with the same number of trials (seed {campaign.TUNING_SEED}). Nothing was chosen on test data. Imbalance degree: "
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
