"""The first result on `digits`: trains every row of README's table. An interrupted command resumes.

    python -m analysis.first_result --seeds 5 --processes 2

Stage 1 is shared by all rows of a seed and optimizer; stage 2 differs. Tuning comes last (on validation, with a separate seed, one
grid and the same number of trials for control and method, see ``analysis.tuning``). Runs go to the MLflow experiment
``first-result``; rows and seeds with a finished run are not trained again. Test data are read once per finished run, for the table
only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis import campaign
from analysis.tables import collect, write_result
from analysis.tuning import Grid, Trial, Tuning, tune
from mm_balance.config import Config, options, resolve
from mm_balance.reproduction.plan import of_warmup

EXPERIMENT = "first-result"
UNIMODAL_WEIGHT = Grid(options()["unimodal_weight"], (0.5, 1.0, 2.0))
ADAM = {"optimizer": "adam", "learning_rate": 0.001}


@dataclass(frozen=True)
class Row:
    """A table row: name, method of stage 2, and settings that differ from the defaults."""

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
    """One training run: a row at a seed, or (``row`` empty) the warm-up that rows of that seed share."""

    seed: int
    settings: tuple[tuple[str, Any], ...]
    row: str = ""
    method: str = ""
    test: bool = True


def main() -> None:
    """Train missing runs, tune, collect results, write the table."""
    arguments = campaign.start_campaign(__doc__, EXPERIMENT, seeds=5)
    started = time.time()
    rows = [
        Task(seed, _items({**row.settings, "preset": arguments.preset}), row.name, row.method)
        for row in ROWS
        for seed in range(arguments.seeds)
    ]
    digests = _run_all(rows, arguments.processes)

    def score(proposed: Mapping[str, Sequence[Trial]]) -> dict[str, list[float]]:
        tasks = {
            method: [_tuning_task(method, trial.setting, arguments.preset) for trial in trials]
            for method, trials in proposed.items()
        }
        digests = _run_all([task for items in tasks.values() for task in items], arguments.processes)
        return {
            method: [campaign.score_of(task.row, digests[task]) for task in items] for method, items in tasks.items()
        }

    # The learning rate is not searched: its grid has one value.
    rates = Grid(options()["learning_rate"], (resolve({"preset": arguments.preset}).optimization.learning_rate,))
    tuning = tune(dict.fromkeys(TUNED.values(), UNIMODAL_WEIGHT), rates, score)
    tuned = [
        Task(seed, _items({"unimodal_weight": tuning.best(method).setting, "preset": arguments.preset}), name, method)
        for name, method in TUNED.items()
        for seed in range(arguments.seeds)
    ]
    digests |= _run_all(tuned, arguments.processes)
    records = collect(campaign.experiment(), {(task.row, task.seed): digests[task] for task in (*rows, *tuned)})
    names = [*(row.name for row in ROWS), *TUNED]
    write_result(records, tuning_line(tuning), names, arguments.out, seconds=time.time() - started)


def tuning_line(tuning: Tuning) -> str:
    """Describe how the tuned rows were chosen, as markdown."""
    winners = []
    for name, method in TUNED.items():
        edges = tuning.edges(method)
        weight = tuning.best(method).setting
        assert isinstance(weight, float)
        winners.append(f"*{name}* `{UNIMODAL_WEIGHT.text(weight)}`" + (" (at an edge of the grid)" if edges else ""))
    return (
        f"Tuned on validation (seed {campaign.TUNING_SEED}, {tuning.trials} trials each, one grid for both, extended where either had "
        f"its best value at an edge): {', '.join(winners)}."
    )


def _tuning_task(method: str, weight: Any, preset: str) -> Task:
    settings = _items({"unimodal_weight": weight, "preset": preset})
    row = f"tuning {method} {UNIMODAL_WEIGHT.text(weight)}"
    return Task(campaign.TUNING_SEED, settings, row, method, test=False)


def _items(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _warmup_task(task: Task) -> Task:
    return Task(task.seed, of_warmup(task.settings))


def _run_all(tasks: list[Task], processes: int) -> dict[Task, str]:
    return campaign.run_all([_warmup_task(task) for task in tasks], tasks, run_task, processes)


def configuration(task: Task) -> Config:
    """Return the configuration of a task."""
    return campaign.stage_two(dict(task.settings), task.method, task.seed)


def run_task(task: Task) -> campaign.TaskResult:
    """Train a task unless its run already exists."""
    return campaign.run_after_warmup(task, configuration(task), test=task.test)


if __name__ == "__main__":
    main()
