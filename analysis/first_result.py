"""The first result on `digits`: every row of README's table, by one command, continued where it was stopped.

    python -m analysis.first_result --seeds 5 --processes 2

Stage 1 is shared by all rows of a seed and optimizer; stage 2 differs. Tuning (on validation, on a seed of its own, one grid and
as many trials for the control as for the method, see ``analysis.tuning``) comes last. Runs go to the MLflow experiment
``first-result``; a row and seed that has a finished run is not trained again. Test data are read once per finished run, for the
table alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from analysis import campaign
from analysis.tables import collect, write_result
from analysis.tuning import Grid, Trial, Tuning, tune
from mm_balance.config import ADAPTIVE_METHOD, Config, format_value, options, resolve, warmup_parameters
from mm_balance.methods import find_method
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.plans import trial_plan
from mm_balance.workflow.provenance import expected_settings
from mm_balance.workflow.runs import run_stage
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.stage import StageResult

EXPERIMENT = "first-result"
UNIMODAL_WEIGHT = Grid(options()["unimodal_weight"], (0.5, 1.0, 2.0))
ADAM = {"optimizer": "adam", "learning_rate": 0.001}


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, the method of stage 2, and what differs from the defaults."""

    name: str
    method: str = "gap_mixture"
    settings: dict[str, Any] = field(default_factory=dict)


ROWS = (
    Row("joint", "concat"),
    Row("control", "concat_unimodal"),
    Row("adaptive (reconstructed, default)"),
    Row("adaptive, form prose", settings={"loss_form": "prose"}),
    Row("adaptive, form abstract_v2", settings={"loss_form": "abstract_v2"}),
    Row("without alpha (gap)", settings={"gap_weight": 0.0}),
    Row("without beta (shift)", settings={"shift_weight": 0.0}),
    Row("without gamma (hard)", settings={"hard_weight": 0.0}),
    Row("posterior weighting none", settings={"posterior_weighting": "none"}),
    Row("posterior weighting prior", settings={"posterior_weighting": "prior"}),
    Row("SGD, state kept", settings={"optimizer_state": "keep"}),
    Row("Adam, state reset", settings=ADAM),
    Row("Adam, state kept", settings={**ADAM, "optimizer_state": "keep"}),
)
TUNED = {"control, tuned": "concat_unimodal", "adaptive, tuned": "gap_mixture"}


@dataclass(frozen=True)
class Task:
    """One training: a row at a seed, or (``row`` empty) the warm-up that rows of that seed share."""

    seed: int
    settings: tuple[tuple[str, Any], ...]
    row: str = ""
    method: str = ""
    test: bool = True


def main() -> None:
    """Tune, train what is missing, collect, write the table."""
    given = campaign.begin(__doc__, EXPERIMENT, seeds=5)
    started = time.time()
    rows = [
        Task(seed, _items({**row.settings, "preset": given.preset}), row.name, row.method)
        for row in ROWS
        for seed in range(given.seeds)
    ]
    done = _run_all(rows, given.processes)

    def score(wanted: Mapping[str, Sequence[Trial]]) -> dict[str, list[float]]:
        tasks = {
            method: [_tuning_task(method, trial.setting, given.preset) for trial in trials]
            for method, trials in wanted.items()
        }
        done = _run_all([task for items in tasks.values() for task in items], given.processes)
        return {method: [campaign.score_of(task.row, done[task]) for task in items] for method, items in tasks.items()}

    # The rate is not searched: a grid of one value.
    rates = Grid(options()["learning_rate"], (resolve({"preset": given.preset}).optimization.learning_rate,))
    tuning = tune(dict.fromkeys(TUNED.values(), UNIMODAL_WEIGHT), rates, score)
    tuned = [
        Task(seed, _items({"unimodal_weight": tuning.best(method).setting, "preset": given.preset}), name, method)
        for name, method in TUNED.items()
        for seed in range(given.seeds)
    ]
    done |= _run_all(tuned, given.processes)
    records = collect(campaign.experiment(), {(task.row, task.seed): done[task] for task in (*rows, *tuned)})
    names = [*(row.name for row in ROWS), *TUNED]
    write_result(records, tuning_line(tuning), names, given.out, seconds=time.time() - started)


def tuning_line(tuning: Tuning) -> str:
    """How the tuned rows were chosen, as markdown."""
    told = []
    for name, method in TUNED.items():
        edges = tuning.edges(method)
        weight = tuning.best(method).setting
        assert isinstance(weight, float)
        told.append(f"*{name}* `{UNIMODAL_WEIGHT.text(weight)}`" + (" (at an edge of the grid)" if edges else ""))
    return (
        f"Tuned on validation (seed {campaign.TUNING_SEED}, {tuning.trials} trials each, one grid for both, which grew where one of "
        f"them had its best value at an edge): {', '.join(told)}."
    )


def _tuning_task(method: str, weight: Any, preset: str) -> Task:
    settings = _items({"unimodal_weight": weight, "preset": preset})
    row = f"tuning {method} {UNIMODAL_WEIGHT.text(weight)}"
    return Task(campaign.TUNING_SEED, settings, row, method, test=False)


def _items(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _warmup_task(task: Task) -> Task:
    kept = {"preset", *warmup_parameters()}
    return Task(task.seed, tuple((name, value) for name, value in task.settings if name in kept))


def _run_all(tasks: list[Task], processes: int) -> dict[Task, str]:
    return campaign.run_all([_warmup_task(task) for task in tasks], tasks, run_task, processes)


def configuration(task: Task) -> Config:
    """What a task trains with; another method than ours is a stage of `train`, on the same footing."""
    settings = {**dict(task.settings), "seed": task.seed, "device": "cpu"}
    if task.method in ("", ADAPTIVE_METHOD):
        return resolve(settings)
    own = {item.name for item in fields(find_method(task.method).Options)}
    chosen = {name: value for name, value in settings.items() if name in own}
    plain = resolve({name: value for name, value in settings.items() if name not in own})
    return plain.replace(
        method=task.method,
        method_options=",".join(f"{name}={format_value(value)}" for name, value in chosen.items()) or None,
        epochs=plain.adaptive.adaptive_epochs,
    )


def run_task(task: Task) -> campaign.Done:
    """Train one task where that is still missing."""
    config = configuration(task)
    data = read_data(config)
    if not task.row:
        return campaign.train_warmup(config, data)
    plan = trial_plan(config, after_warmup=True)
    settings = expected_settings(plan, data, after_warmup=True)

    def train(run: TrackedRun) -> StageResult:
        return run_stage(plan, data, run, campaign.never, campaign.started_warmup(config, data))

    return campaign.train_row(task, data, settings, train, test=task.test)


if __name__ == "__main__":
    main()
