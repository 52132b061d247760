"""All methods on `digits`: the same epochs, rates and number of trials for all, by one command that goes on where it stopped.

    python -m analysis.leaderboard --seeds 3 --processes 2

A method from scratch holds the learning rate for the epochs of a warm-up (``learning_rate_hold``) and then falls as it does after
one, so in every epoch all methods have the same rate. Methods that follow a warm-up share its run, whose epochs count.

Tuning (``analysis.tuning`` has the rule): on a seed of its own, by the validation accuracy after the last epoch. Cost: 5 to 11
trials for each of the 27 methods, the same number for all (135 to 297 runs), 3 seeds of the best one (81), and a warm-up of a third of
the epochs for each seed and each rate that a method with warm-up is tried at. Test data are read once per run of the table, for it
alone. Runs go to the MLflow experiment ``leaderboard``.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import campaign
from analysis.tables import spread, table_runs
from analysis.tuning import Grid, Space, Trial, Tuning, Words, tune
from mm_balance.config import Config, options, resolve
from mm_balance.methods import METHODS
from mm_balance.methods.options import declared_options
from mm_balance.tracking.query import read_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.plans import train_plan
from mm_balance.workflow.provenance import expected_settings
from mm_balance.workflow.runs import run_stage
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.stage import StageResult

EXPERIMENT = "leaderboard"


def _grid(method: str, option: str, *values: float, even: bool = False) -> Grid:
    return Grid(declared_options(METHODS[method].Options)[option], values, even)


UNIMODAL_WEIGHT = _grid("concat_unimodal", "unimodal_weight", 0.5, 1.0, 2.0)
OGM_STRENGTH = _grid("ogm", "alpha", 0.1, 0.3, 0.9)
SPACES: dict[str, Grid | Words] = {
    "concat_unimodal": UNIMODAL_WEIGHT,
    "gap_mixture": UNIMODAL_WEIGHT,
    "purified": UNIMODAL_WEIGHT,
    "ogm": OGM_STRENGTH,
    "ogm_ge": OGM_STRENGTH,
    "opm_ogm": OGM_STRENGTH,
    "ensemble": Words(("mean_of=probabilities", "mean_of=logits")),
    "g_blending": _grid("g_blending", "horizon", 3, 6, 12),
    "greedy": _grid("greedy", "threshold", 0.001, 0.01, 0.1),
    "pmr": _grid("pmr", "alpha", 0.5, 1.0, 2.0),
    "agm": _grid("agm", "alpha", 0.3, 1.0, 3.0),
    "mla": Words(("projection=rls_norm", "projection=official", "projection=none")),
    "diagnose_relearn": _grid("diagnose_relearn", "strength", 1.0, 3.0, 9.0),
    "opm": _grid("opm", "drop_base", 0.3, 0.5, 0.7, even=True),
    "mmcosine": _grid("mmcosine", "scale", 5.0, 10.0, 20.0),
    "mmpareto": _grid("mmpareto", "gamma", 1.0, 1.5, 2.25),
    "umt": _grid("umt", "distillation", 2.0, 10.0, 50.0),
    "sample_valuation": Words(
        ("level=sample,start_epoch=2", "level=sample,start_epoch=5", "level=modality,start_epoch=2")
    ),
    "focal": _grid("focal", "focus", 1.0, 2.0, 4.0),
    "lfm": Words(("stretch=true", "stretch=false", "stretch=true,divergence=true")),
    "reconboost": _grid("reconboost", "phase_epochs", 1, 2, 4),
    "cml": _grid("cml", "calibration", 0.1, 1.0, 10.0),
    "amco": _grid("amco", "limit", 0.3, 1.0, 3.0),
    "mbsd": _grid("mbsd", "strength", 0.3, 1.0, 3.0),
}
"""Method -> its main option, where the search starts in the middle; the same object where methods have the same quantity."""
FIXED = {"diagnose_relearn": "every=4", "opm": "start_epoch=2", "opm_ogm": "start_epoch=2"}
"""What has to fit a short stage, the same in all trials: the defaults are for a hundred epochs."""
COLUMNS = ("accuracy", "accuracy_audio", "accuracy_visual", "imbalance_degree")


@dataclass(frozen=True)
class Task:
    """One training; ``method`` empty = the warm-up that methods of that seed and learning rate share."""

    seed: int
    preset: str
    rate: float
    method: str = ""
    options: str = ""
    row: str = ""
    test: bool = False


def main() -> None:
    """Tune, train what is missing, collect, write the table."""
    given = campaign.begin(__doc__, EXPERIMENT, 3, methods=",".join(METHODS))
    methods = given.methods.split(",")
    base = resolve({"preset": given.preset}).optimization.learning_rate
    rates = Grid(options()["learning_rate"], (base / 2, base, 2 * base))

    def task(method: str, trial: Trial, seed: int, row: str, *, test: bool) -> Task:
        return Task(seed, given.preset, trial.rate, method, method_options(method, trial), row, test)

    def score(wanted: Mapping[str, Sequence[Trial]]) -> dict[str, list[float]]:
        tasks = {
            method: [
                task(method, trial, campaign.TUNING_SEED, _row(method, trial, rates), test=False) for trial in trials
            ]
            for method, trials in wanted.items()
        }
        done = _run_all([item for items in tasks.values() for item in items], given.processes)
        return {method: [campaign.score_of(item.row, done[item]) for item in items] for method, items in tasks.items()}

    tuning = tune({method: SPACES.get(method) for method in methods}, rates, score)
    final = [
        task(method, tuning.best(method), seed, method, test=True) for method in methods for seed in range(given.seeds)
    ]
    done = _run_all(final, given.processes)
    frame = collect(campaign.experiment(), {(item.row, item.seed): done[item] for item in final})
    given.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(given.out / "leaderboard.csv", index=False)
    trials_table(tuning).to_csv(given.out / "leaderboard_trials.csv", index=False)
    (given.out / "leaderboard.md").write_text("\n".join(page(frame, tuning)), "utf-8")


def method_options(method: str, trial: Trial) -> str:
    """``method_options`` of a trial; empty = the method has none."""
    space: Space = SPACES.get(method)
    setting = "" if space is None else space.text(trial.setting)  # type: ignore[arg-type]
    return ",".join(part for part in (FIXED.get(method, ""), setting) if part)


def _row(method: str, trial: Trial, rates: Grid) -> str:
    return f"tuning {method} {trial.text(rates, SPACES.get(method))}"


def _run_all(tasks: Sequence[Task], processes: int) -> dict[Task, str]:
    warmups = [Task(task.seed, task.preset, task.rate) for task in tasks if METHODS[task.method].needs_warmup]
    return campaign.run_all(warmups, tasks, run_task, processes)


def configuration(task: Task) -> Config:
    """What a task trains with: every method has the same number of epochs in all and, in each of them, the same learning rate."""
    preset = resolve({"preset": task.preset})
    values = {
        "preset": task.preset, "seed": task.seed, "device": "cpu", "learning_rate": task.rate,
        "learning_rate_hold": preset.warmup.warmup_epochs,
    }  # fmt: skip
    if task.method:
        # The warm-up's epochs count.
        before = preset.warmup.warmup_epochs if METHODS[task.method].needs_warmup else 0
        values |= {
            "method": task.method, "method_options": task.options or None, "epochs": preset.train.epochs - before
        }  # fmt: skip
    return resolve(values)


def run_task(task: Task) -> campaign.Done:
    """Train one task where that is still missing."""
    config = configuration(task)
    data = read_data(config)
    if not task.method:
        return campaign.train_warmup(config, data)
    method = METHODS[task.method]
    plan = train_plan(config)
    settings = expected_settings(plan, data, after_warmup=method.needs_warmup)

    def train(run: TrackedRun) -> StageResult:
        warmup = campaign.started_warmup(config, data) if method.needs_warmup else None
        return run_stage(plan, data, run, campaign.never, warmup)

    return campaign.train_row(task, data, settings, train, test=task.test)


def collect(experiment: str, wanted: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """One line per method and seed: test accuracies, imbalance, at which epoch, seconds and encoder work of all its epochs.

    Arguments and errors of ``analysis.tables.table_runs``. The warm-up run may be of another experiment.
    """
    lines = []
    for method, run, test in table_runs(experiment, wanted):
        line: dict[str, Any] = {"method": method, "seed": int(run.tags["mm.seed"]), "run": run.run_id}
        line |= {name: test.metrics[f"test/{name}"] for name in COLUMNS}
        line["epoch"] = int(run.metrics["selection/last_epoch"])
        line["held"] = int(run.parameters["config/learning_rate_hold"])
        stages = [run, *([read_run(run.tags["mm.warmup_run"])] if "mm.warmup_run" in run.tags else [])]
        line["seconds"] = sum(stage.metrics["time/training_seconds"] for stage in stages)
        work, before = 0.0, 0.0
        for stage in reversed(stages):  # the warm-up first: its last epoch is where the method begins
            epochs = stage.metrics["selection/last_epoch"] - before
            work, before = work + epochs * stage.metrics["cost/relative"], stage.metrics["selection/last_epoch"]
        line["cost"] = work / before
        lines.append(line)
    return pd.DataFrame(lines).sort_values(["method", "seed"], ignore_index=True)


def trials_table(tuning: Tuning) -> pd.DataFrame:
    """One line per trial, in the order of the search: method, learning rate, options, validation accuracy, whether it was chosen."""
    return pd.DataFrame(
        {
            "method": method,
            "learning_rate": trial.rate,
            "options": method_options(method, trial),
            "val_accuracy": value,
            "chosen": trial == tuning.best(method),
        }
        for method, scores in tuning.scores.items()
        for trial, value in scores.items()
    )


def page(frame: pd.DataFrame, tuning: Tuning) -> list[str]:
    """The table as markdown, best fused accuracy first.

    Raises:
        ValueError: methods with different numbers of trials, or runs of different lengths or schedules, which nothing may compare.
    """
    import torch

    epoch, held = _same(frame, "epoch"), _same(frame, "held")
    means = frame.groupby("method")["accuracy"].mean().sort_values(ascending=False)
    lines = [
        "# Leaderboard on `digits`",
        "",
        f"Written by `python -m analysis.leaderboard` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, one thread per run, "
        f"torch {torch.__version__}). Accuracy in %, mean ± standard deviation over seeds {sorted(frame['seed'].unique().tolist())}. "
        "Imbalance degree: difference of the modalities' Shapley values. Seconds: of training. Cost: encoder passes relative to joint "
        "training. Nothing was chosen on test data.",
        "",
        f"Every method trained for {epoch} epochs, a warm-up's included, at the same learning rate in each of them: its initial rate "
        f"for {held}, then a cosine to 0; the last epoch is scored. Every method had {tuning.trials} trials on validation (seed "
        f"{campaign.TUNING_SEED}): first of the learning rate, with its main option in the middle, then of that option at the best "
        "rate, on one grid where methods share the option. Where a best value lay at an edge of its grid, the grid grew by one step "
        "for all that have it, and the others had as many trials more, between their best one and its better neighbor; what lies at "
        "an edge all the same is named (`bound`: the option ends there). All trials: `leaderboard_trials.csv`.",
        "",
        "| method | measured at | fused | audio | visual | imbalance degree | seconds | cost | trials | learning rate and options "
        "| at an edge |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|",
    ]
    for method in means.index:
        part = frame[frame["method"] == method]
        dagger = " †" if _see_each_other(method) else ""
        trial = tuning.best(method)
        chosen = [tuning.rates.text(trial.rate), method_options(method, trial)]
        cells = [
            f"`{method}`",
            f"test, epoch {epoch}",
            spread(part["accuracy"], 100),
            *(spread(part[name], 100) + dagger for name in COLUMNS[1:3]),
            spread(part["imbalance_degree"], digits=2) + dagger,
            f"{part['seconds'].mean():.0f}",
            f"{part['cost'].mean():.2f}",
            str(len(tuning.scores[method])),
            f"`{','.join(part for part in chosen if part)}`",
            ", ".join(tuning.edges(method)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if any(_see_each_other(method) for method in means.index):
        lines += [
            "",
            "† Branches that see each other: what is read at a modality's own head has seen the other modalities too. These are not "
            "accuracies of a modality alone, and not to be compared with the others of their column.",
        ]
    return [*lines, ""]


def _see_each_other(method: str) -> bool:
    return METHODS[method].sees_others()


def _same(frame: pd.DataFrame, column: str) -> int:
    found = sorted(set(frame[column]))
    if len(found) != 1:
        raise ValueError(f"the runs of the table differ in {column}: {found}")
    return int(found[0])


if __name__ == "__main__":
    main()
