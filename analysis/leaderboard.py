"""All methods with the same epochs, learning rates and number of trials, on `digits` or on GRID letters. A stopped command resumes.

    python -m analysis.leaderboard --processes 2
    python -m analysis.leaderboard --grid PATH/manifest.csv

Methods without warm-up keep the learning rate constant for the epochs of a warm-up (``learning_rate_hold``), then decay it as after
a warm-up, so all methods have the same rate in every epoch. Methods with warm-up share its run, whose epochs count.

Tuning (rule in ``analysis.tuning``) uses a separate seed and the validation accuracy after the last epoch. Cost: 5 to 11 trials for
each method, the same number for all, three seeds of the best one on `digits` (all 31 methods) and five on GRID letters (ten methods),
and a warm-up of a third of the epochs for each seed and each rate at which a method with warm-up is tried: 4 to 5 hours on 2 cores on
`digits`, half an hour on GRID letters. Test data are read once per run in the table and for nothing else. Runs go to the MLflow
experiment ``leaderboard``; their results are also written to ``leaderboard_runs.csv``, from which the command goes on where that store
is not at hand.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from analysis import campaign
from analysis.results_file import Key, ResultsFile
from analysis.tables import spread, table_runs
from analysis.tuning import Choices, Grid, Space, Trial, Tuning, tune
from mm_balance.config import Config, format_value, options, resolve
from mm_balance.config.resolve import PRESETS
from mm_balance.methods import METHODS
from mm_balance.methods.options import declared_options
from mm_balance.reproduction.chosen import SHORT_STAGE
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
RANKED = tuple(name for name in METHODS if name != "one_modality")
"""The methods of the table: on `digits`, `one_modality` is `audio_only` or `visual_only`."""
MAIN_TEN = (
    "audio_only", "visual_only", "concat", "concat_unimodal", "ogm_ge", "mmpareto", "mla", "gap_mixture", "loss_mixture",
    "posterior_discount",
)  # fmt: skip
"""The methods of the table on GRID letters."""
FIRST_SEED = 8000
SPACES: dict[str, Grid | Choices] = {
    "concat_unimodal": UNIMODAL_WEIGHT,
    "gap_mixture": UNIMODAL_WEIGHT,
    "purified": UNIMODAL_WEIGHT,
    "posterior_discount": UNIMODAL_WEIGHT,
    "loss_mixture": UNIMODAL_WEIGHT,
    "gce": UNIMODAL_WEIGHT,
    "ogm": OGM_STRENGTH,
    "ogm_ge": OGM_STRENGTH,
    "opm_ogm": OGM_STRENGTH,
    "ensemble": Choices(("mean_of=probabilities", "mean_of=logits")),
    "g_blending": _grid("g_blending", "horizon", 3, 6, 12),
    "greedy": _grid("greedy", "threshold", 0.001, 0.01, 0.1),
    "pmr": _grid("pmr", "alpha", 0.5, 1.0, 2.0),
    "agm": _grid("agm", "alpha", 0.3, 1.0, 3.0),
    "mla": Choices(("projection=rls_norm", "projection=official", "projection=none")),
    "diagnose_relearn": _grid("diagnose_relearn", "strength", 1.0, 3.0, 9.0),
    "opm": _grid("opm", "drop_base", 0.3, 0.5, 0.7, even=True),
    "mmcosine": _grid("mmcosine", "scale", 5.0, 10.0, 20.0),
    "mmpareto": _grid("mmpareto", "gamma", 1.0, 1.5, 2.25),
    "umt": _grid("umt", "distillation", 2.0, 10.0, 50.0),
    "sample_valuation": Choices(
        ("level=sample,start_epoch=2", "level=sample,start_epoch=5", "level=modality,start_epoch=2")
    ),
    "focal": _grid("focal", "focus", 1.0, 2.0, 4.0),
    "lfm": Choices(("stretch=true", "stretch=false", "stretch=true,divergence=true")),
    "reconboost": _grid("reconboost", "phase_epochs", 1, 2, 4),
    "cml": _grid("cml", "calibration", 0.1, 1.0, 10.0),
    "amco": _grid("amco", "limit", 0.3, 1.0, 3.0),
    "mbsd": _grid("mbsd", "strength", 0.3, 1.0, 3.0),
}
"""Method -> search space of its main option; methods with the same quantity share one object."""
FIXED = {
    method: ",".join(f"{name}={format_value(value)}" for name, value in settings.items())
    for method, settings in SHORT_STAGE.items()
}
"""Method -> options adapted to a short stage, fixed in all trials."""
COLUMNS = ("accuracy", "accuracy_audio", "accuracy_visual", "imbalance_degree")
RESULTS: Mapping[str, type] = {
    "run": str, "val_accuracy": float, **dict.fromkeys(COLUMNS, float), "epoch": int, "held": int, "seconds": float, "cost": float,
}  # fmt: skip
"""What is written down of a run; of a trial only its validation accuracy."""


@dataclass(frozen=True)
class Table:
    """What is measured: `digits` or GRID letters.

    Attributes:
        title: name of the data set.
        preset: value of the parameter ``preset``.
        dataset: value of the parameter ``dataset``.
        suffix: of the files' names.
        methods: names of the methods.
        seeds: number of seeds.
    """

    title: str
    preset: str
    dataset: str
    suffix: str
    methods: tuple[str, ...]
    seeds: int


@dataclass(frozen=True)
class Task:
    """One training run; an empty ``method`` is the warm-up shared by methods at that seed and learning rate."""

    seed: int
    preset: str
    rate: float
    method: str = ""
    options: str = ""
    row: str = ""
    test: bool = False
    dataset: str = "digits"


def main() -> None:
    """Tune, train missing runs, write the table."""
    arguments = campaign.start_campaign(__doc__, EXPERIMENT, 0, first_seed=FIRST_SEED, methods="auto", grid="none")
    table = described(arguments)
    base = resolve({"preset": table.preset, "dataset": table.dataset}).optimization.learning_rate
    rates = Grid(options()["learning_rate"], (base / 2, base, 2 * base))
    record = ResultsFile(arguments.out / f"leaderboard{table.suffix}_runs.csv", RESULTS)

    def task(method: str, trial: Trial, seed: int, row: str, *, test: bool) -> Task:
        return Task(seed, table.preset, trial.rate, method, method_options(method, trial), row, test, table.dataset)

    def trained(tasks: Sequence[Task]) -> dict[Task, Key]:
        return _run_all(tasks, record, arguments.processes)

    used: set[Key] = set()

    def score(proposed: Mapping[str, Sequence[Trial]]) -> dict[str, list[float]]:
        tasks = {
            method: [
                task(method, trial, campaign.TUNING_SEED, _row(method, trial, rates), test=False) for trial in trials
            ]
            for method, trials in proposed.items()
        }
        keys = trained([item for items in tasks.values() for item in items])
        used.update(keys.values())
        return {method: [record[keys[item]]["val_accuracy"] for item in items] for method, items in tasks.items()}

    tuning = tune({method: SPACES.get(method) for method in table.methods}, rates, score)
    seeds = range(arguments.first_seed, arguments.first_seed + table.seeds)
    final = trained(
        [task(method, tuning.best(method), seed, method, test=True) for method in table.methods for seed in seeds]
    )
    record.keep({*used, *final.values()})
    frame = runs_table(record, final)
    frame.to_csv(arguments.out / f"leaderboard{table.suffix}.csv", index=False)
    trials_table(tuning).to_csv(arguments.out / f"leaderboard{table.suffix}_trials.csv", index=False)
    lines = page(frame, tuning, table.title, table.suffix)
    (arguments.out / f"leaderboard{table.suffix}.md").write_text("\n".join(lines), "utf-8")


def described(arguments: argparse.Namespace) -> Table:
    """Return the table that the command line asks for."""
    preset = arguments.preset
    if arguments.grid == "none":
        table = Table("`digits`", preset, "digits", "", RANKED, 3)
    else:
        grid_preset = str(PRESETS / "grid.yaml") if preset == "auto" else preset
        table = Table("GRID letters", grid_preset, arguments.grid, "_grid", MAIN_TEN, 5)
    methods = table.methods if arguments.methods == "auto" else tuple(arguments.methods.split(","))
    return replace(table, methods=methods, seeds=arguments.seeds or table.seeds)


def method_options(method: str, trial: Trial) -> str:
    """Return ``method_options`` of a trial; empty if the method has no options."""
    space: Space = SPACES.get(method)
    setting = "" if space is None else space.text(trial.setting)  # type: ignore[arg-type]
    return ",".join(part for part in (FIXED.get(method, ""), setting) if part)


def _row(method: str, trial: Trial, rates: Grid) -> str:
    return f"tuning {method} {trial.text(rates, SPACES.get(method))}"


def _run_all(tasks: Sequence[Task], record: ResultsFile, processes: int) -> dict[Task, Key]:
    """Train what neither the record nor the store has; return the lines of the record."""
    warmups = [
        Task(task.seed, task.preset, task.rate, dataset=task.dataset)
        for task in tasks
        if METHODS[task.method].needs_warmup
    ]

    def write_down(task: Task, result: campaign.TaskResult) -> None:
        key = (task.row, task.seed, result.settings)
        if key not in record:
            record.add(key, results_of(task, result.settings))

    train = partial(run_task, known=record.keys())
    settings = campaign.run_all(warmups, tasks, train, processes, write_down)
    return {task: (task.row, task.seed, settings[task]) for task in tasks}


def results_of(task: Task, settings: str) -> dict[str, Any]:
    """Read what is written down of a finished run."""
    if task.test:
        (line,) = collect(campaign.experiment(), {(task.row, task.seed): settings}).to_dict("records")
        return {name: line[name] for name in RESULTS}
    return {"val_accuracy": campaign.score_of(task.row, settings)}


def runs_table(record: ResultsFile, final: Mapping[Task, Key]) -> pd.DataFrame:
    """Return the lines of the table's runs: method, seed and what is written down of them."""
    lines = [{"method": task.method, "seed": task.seed, **record[key]} for task, key in final.items()]
    return pd.DataFrame(lines).sort_values(["method", "seed"], ignore_index=True)


def configuration(task: Task) -> Config:
    """Return the configuration of a task: all methods have the same total number of epochs and the same rate in each epoch."""
    data = {"preset": task.preset, "dataset": task.dataset}
    preset = resolve(data)
    values = {
        **data, "seed": task.seed, "device": "cpu", "learning_rate": task.rate,
        "learning_rate_hold": preset.warmup.warmup_epochs,
    }  # fmt: skip
    if task.method:
        # The warm-up's epochs count.
        before = preset.warmup.warmup_epochs if METHODS[task.method].needs_warmup else 0
        values |= {
            "method": task.method, "method_options": task.options or None, "epochs": preset.train.epochs - before
        }  # fmt: skip
    return resolve(values)


def run_task(task: Task, known: frozenset[Key] = frozenset()) -> campaign.TaskResult:
    """Train a task unless its run already exists, in the store or among the ``known`` lines of the record."""
    config = configuration(task)
    data = read_data(config)
    if not task.method:
        return campaign.train_warmup(config, data)
    method = METHODS[task.method]
    plan = train_plan(config)
    settings = expected_settings(plan, data, after_warmup=method.needs_warmup)
    if (task.row, task.seed, settings) in known:
        return campaign.TaskResult(campaign.ALREADY, settings)

    def train(run: TrackedRun) -> StageResult:
        warmup = campaign.existing_warmup(config, data) if method.needs_warmup else None
        return run_stage(plan, data, run, campaign.never_stop, warmup)

    return campaign.train_row(task, data, settings, train, test=task.test)


def collect(experiment: str, settings: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """Collect one row per method and seed: test accuracies, imbalance, epoch, training time and encoder cost over all epochs.

    Arguments and errors as in ``analysis.tables.table_runs``. The warm-up run may belong to another experiment.
    """
    lines = []
    for method, run, test in table_runs(experiment, settings):
        line: dict[str, Any] = {"method": method, "seed": int(run.tags["mm.seed"]), "run": run.run_id}
        line |= {name: test.metrics[f"test/{name}"] for name in COLUMNS}
        line["val_accuracy"] = run.metrics["val/accuracy"]
        line["epoch"] = int(run.metrics["selection/last_epoch"])
        line["held"] = int(run.parameters["config/learning_rate_hold"])
        stages = [run, *([read_run(run.tags["mm.warmup_run"])] if "mm.warmup_run" in run.tags else [])]
        line["seconds"] = sum(stage.metrics["time/training_seconds"] for stage in stages)
        work, before = 0.0, 0.0
        for stage in reversed(stages):  # warm-up first: the method starts at its last epoch
            epochs = stage.metrics["selection/last_epoch"] - before
            work, before = work + epochs * stage.metrics["cost/relative"], stage.metrics["selection/last_epoch"]
        line["cost"] = work / before
        lines.append(line)
    return pd.DataFrame(lines).sort_values(["method", "seed"], ignore_index=True)


def trials_table(tuning: Tuning) -> pd.DataFrame:
    """Tabulate all trials in search order: method, learning rate, options, validation accuracy, whether it was chosen."""
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


def page(frame: pd.DataFrame, tuning: Tuning, title: str = "`digits`", suffix: str = "") -> list[str]:
    """Render the table as markdown, best fused accuracy first.

    Raises:
        ValueError: methods differ in the number of trials, or runs in length or schedule, so they are not comparable.
    """
    import torch

    epoch, held = _same(frame, "epoch"), _same(frame, "held")
    means = frame.groupby("method")["accuracy"].mean().sort_values(ascending=False)
    seeds = sorted(frame["seed"].unique().tolist())
    lines = [
        f"# Leaderboard on {title}",
        "",
        f"Written by `python -m analysis.leaderboard{' --grid PATH' if suffix else ''}` on {time.strftime('%Y-%m-%d')} "
        f"({platform.machine()}, one thread per run, torch {torch.__version__}). "
        f"Accuracy in %, mean ± standard deviation over seeds {seeds}. "
        "Imbalance degree: difference of the modalities' Shapley values. Seconds: training time. Cost: encoder passes relative to "
        "joint training. Nothing was chosen on test data.",
        "",
        f"Every method was trained for {epoch} epochs, including warm-up, with the same learning rate schedule: constant for {held} "
        f"epochs, then cosine decay to 0; the last epoch is scored. Every method had {tuning.trials} trials on validation (seed "
        f"{campaign.TUNING_SEED}): first over learning rates, with its main option mid-grid, then over that option at "
        "the best rate; methods with the same option share a grid. If a best value lay at an edge of its grid, the grid was extended "
        "by one step for all methods that use it, and the others got as many additional trials between their best value and its "
        "better neighbor. Values that still lie at an edge are listed (`bound`: at the option's bound). All trials: "
        f"`leaderboard{suffix}_trials.csv`.",
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
            "† Branches that see each other: the outputs of a modality's own head also depend on the other modalities. These are not "
            "accuracies of a single modality and are not comparable with the others in their column.",
        ]
    return [*lines, ""]


def _see_each_other(method: str) -> bool:
    return METHODS[method].sees_others()


def _same(frame: pd.DataFrame, column: str) -> int:
    values = sorted(set(frame[column]))
    if len(values) != 1:
        raise ValueError(f"the runs of the table differ in {column}: {values}")
    return int(values[0])


if __name__ == "__main__":
    main()
