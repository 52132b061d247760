"""Shared code of the commands of this folder that train many runs: shared warm-ups, scoring. Interrupted commands resume.

Processes and configurations are those of `reproduce` (``mm_balance.reproduction``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from analysis.tables import ROW_TAG, finished_run
from mm_balance.config import Config
from mm_balance.data import MultimodalData
from mm_balance.errors import Diverged, UserError
from mm_balance.reproduction import plan as reproduction_plan
from mm_balance.reproduction import pool
from mm_balance.tracking.lookup import open_run, prepare_store
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.plans import trial_plan, warmup_plan
from mm_balance.workflow.provenance import expected_settings
from mm_balance.workflow.runs import run_evaluation, run_stage
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.stage import StageResult
from mm_balance.workflow.warmups import find_matching_warmup

TUNING_SEED = 1000
DIVERGED = "diverged"
ALREADY = "already there"


class Task(Protocol):
    """One training run: a table row at a seed; an empty row is the warm-up that rows of that seed share."""

    @property
    def row(self) -> str: ...

    @property
    def seed(self) -> int: ...


T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class TaskResult:
    """Result of a task.

    Attributes:
        message: progress message.
        settings: digest of everything the result depends on (``mm.settings``); empty for warm-ups, identified by fingerprint.
    """

    message: str
    settings: str = ""


def ignore_result(task: Task, result: TaskResult) -> None:
    """Do nothing with a result."""


def start_campaign(description: str, experiment: str, seeds: int, **more: Any) -> argparse.Namespace:
    """Parse the command line and prepare the MLflow store; presets other than ``auto`` use a separate experiment.

    Args:
        description: the command's docstring.
        experiment: name of the MLflow experiment.
        seeds: default of ``--seeds``.
        **more: additional parameters with their defaults.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="auto", help="`quick` is for trying out the command")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default %(default)s")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # read by the training processes
    os.environ["MLFLOW_EXPERIMENT_NAME"] = (
        experiment if arguments.preset == "auto" else f"{experiment}-{arguments.preset}"
    )
    prepare_store()
    return arguments


def experiment() -> str:
    """Return the experiment of this command's runs."""
    return os.environ["MLFLOW_EXPERIMENT_NAME"]


def run_all(
    warmups: Sequence[T],
    tasks: Sequence[T],
    run_task: Callable[[T], TaskResult],
    processes: int,
    on_result: Callable[[T, TaskResult], None] = ignore_result,
) -> dict[T, str]:
    """Run each distinct warm-up, then the tasks; one thread per process, so that runs are reproducible.

    Args:
        warmups: warm-ups of the tasks.
        tasks: training runs.
        run_task: trains one, in another process.
        processes: number of processes.
        on_result: called here with every finished task and its result.

    Returns:
        Task -> digest of its settings, which identifies its runs.
    """
    settings: dict[T, str] = {}
    for phase in (list(dict.fromkeys(warmups)), tasks):
        errors = []
        for finished, (task, result) in enumerate(pool.work_through(phase, run_task, pool.cpu_slots(processes)), 1):
            if isinstance(result, Exception):
                errors.append(result)
                continue
            settings[task] = result.settings
            if task.row:
                on_result(task, result)
            print(f"[{finished}/{len(phase)}] {task.row or 'warm-up'} seed {task.seed}: {result.message}", flush=True)
        if errors:
            raise errors[0]
    return settings


def never_stop() -> bool:
    """Return False: a ``stop_requested`` callback that never requests a stop."""
    return False


def train_warmup(config: Config, data: MultimodalData) -> TaskResult:
    """Train the warm-up of ``config`` unless a matching one already exists in any experiment."""
    if find_matching_warmup(config, data) is not None:
        return TaskResult(ALREADY)
    run = open_run(f"warmup seed {config.run.seed}")
    try:
        result = run_stage(warmup_plan(config), data, run, never_stop)
    except Diverged:
        run.terminate("FAILED")
        return TaskResult(DIVERGED)
    return TaskResult(f"gap {result.progress.points[-1].metrics['gap/mean']:+.3f}")


def existing_warmup(config: Config, data: MultimodalData) -> TrackedRun:
    """Return the warm-up of ``config``. Warm-ups are trained first, so a missing one has diverged: raises Diverged."""
    warmup = find_matching_warmup(config, data)
    if warmup is None:
        raise Diverged("the warm-up with these settings has diverged")
    return warmup


def train_row(
    task: Task, data: MultimodalData, settings: str, train: Callable[[TrackedRun], StageResult], *, test: bool
) -> TaskResult:
    """Train one row at one seed unless a run with the same settings exists, and score table rows on test.

    Args:
        task: row and seed.
        data: training data.
        settings: digest of everything the result depends on: configuration, data, warm-up, code, threads. Runs with other
            settings do not count, even under the same row name.
        train: trains the row in a given run.
        test: whether this is a table row; otherwise a tuning trial.

    Raises:
        Diverged: a table row diverged; a diverged tuning trial is kept as failed and not trained again.
        UserError: the run was trained with other settings than ``settings``.
    """
    known = [finished_run(experiment(), task.row, task.seed, settings, status) for status in ("FINISHED", "FAILED")]
    if known != [None, None]:
        return TaskResult(ALREADY, settings)
    run = open_run(f"{task.row} seed {task.seed}")
    try:
        line = f"val {train(run).progress.points[-1].metrics['val/accuracy']:.4f}"
    except Diverged:
        run.terminate("FAILED")
        if test:
            raise
        run.set_tags({ROW_TAG: task.row, "mm.seed": str(task.seed), "mm.settings": settings})
        return TaskResult(DIVERGED, settings)
    trained_settings = run.read().data.tags.get("mm.settings")
    if trained_settings != settings:
        raise UserError(f"{task.row} seed {task.seed}: run {run.run_id} was trained with settings other than requested")
    if test:
        tested = run_evaluation(run, "test", data, open_run(f"evaluate {task.row} seed {task.seed}", parent=run), "cpu")
        line += f", test {tested['test/accuracy']:.4f}"
    run.set_tags({ROW_TAG: task.row})  # set last: only complete runs count
    return TaskResult(line, settings)


def stage_two(settings: Mapping[str, Any], method: str, seed: int) -> Config:
    """Return the configuration of a method after a warm-up, on the CPU, see ``mm_balance.reproduction.plan.stage_two``."""
    return reproduction_plan.stage_two({**settings, "device": "cpu"}, method, seed)


def run_after_warmup(task: Task, config: Config, *, test: bool) -> TaskResult:
    """Train a row after its warm-up, or the warm-up itself (an empty row), unless such a run exists. Errors as ``train_row``."""
    data = read_data(config)
    if not task.row:
        return train_warmup(config, data)
    plan = trial_plan(config, after_warmup=True)
    settings = expected_settings(plan, data, after_warmup=True)

    def train(run: TrackedRun) -> StageResult:
        return run_stage(plan, data, run, never_stop, existing_warmup(config, data))

    return train_row(task, data, settings, train, test=test)


def replace_rows(frame: pd.DataFrame, path: Path, keys: list[str]) -> pd.DataFrame:
    """Return ``frame`` together with the rows of the table at ``path`` whose ``keys`` it does not have."""
    if not path.is_file():
        return frame
    before = pd.read_csv(path)
    again = before.set_index(keys).index.isin(frame.set_index(keys).index)
    return pd.concat([before[~again], frame], ignore_index=True)


def score_of(row: str, settings: str, seed: int = TUNING_SEED) -> float:
    """Return the validation accuracy of a tuning row at the last epoch; 0 if its training diverged."""
    run = finished_run(experiment(), row, seed, settings)
    if run is None:
        failed = finished_run(experiment(), row, seed, settings, "FAILED")
        assert failed is not None, f"{row} was not trained"
        return 0.0
    return run.metrics["val/accuracy"]
