"""What commands that train many runs share: processes, warm-ups trained once, scoring; they go on where they stopped."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from analysis.tables import ROW_TAG, finished_run
from mm_balance.config import Config
from mm_balance.data import MultimodalData
from mm_balance.errors import Diverged, UserError
from mm_balance.tracking.lookup import open_run, prepare_store
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.plans import warmup_plan
from mm_balance.workflow.runs import run_evaluation, run_stage
from mm_balance.workflow.stage import StageResult
from mm_balance.workflow.warmups import find_matching_warmup

TUNING_SEED = 1000
THREADS = 1
"""Of every process: results on a CPU depend on them, and so does which runs can be used again."""
DIVERGED = "diverged"
ALREADY = "already there"


class Task(Protocol):
    """One training: ``row`` of a table at a seed; an empty row is the warm-up that rows of that seed share."""

    @property
    def row(self) -> str: ...

    @property
    def seed(self) -> int: ...


T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Done:
    """What became of a task.

    Attributes:
        said: what to tell of it.
        settings: digest of everything that its result depends on (``mm.settings``); empty = a warm-up's, known by its fingerprint.
    """

    said: str
    settings: str = ""


def begin(description: str, experiment: str, seeds: int, **more: Any) -> argparse.Namespace:
    """The command line of such a command; its runs go to ``experiment``, those of a try-out to one beside it.

    Args:
        description: the command's docstring.
        experiment: name in MLflow.
        seeds: default of ``--seeds``.
        **more: further parameters with their defaults.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="auto", help="`quick` only tries the command out")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help="default %(default)s")
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # read by the processes that train
    os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment if given.preset == "auto" else f"{experiment}-{given.preset}"
    prepare_store()
    return given


def experiment() -> str:
    """The experiment of this command's runs."""
    return os.environ["MLFLOW_EXPERIMENT_NAME"]


def run_all(warmups: Sequence[T], tasks: Sequence[T], run_task: Callable[[T], Done], processes: int) -> dict[T, str]:
    """First the warm-ups, each once, then the tasks; one thread per process, so that runs repeat exactly.

    Returns:
        The settings of every task: which runs are its.
    """
    settings: dict[T, str] = {}
    for phase in (list(dict.fromkeys(warmups)), tasks):
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _one_thread) as pool:
            futures = {pool.submit(run_task, task): task for task in phase}
            for done, future in enumerate(as_completed(futures), 1):
                task, result = futures[future], future.result()
                settings[task] = result.settings
                print(f"[{done}/{len(phase)}] {task.row or 'warm-up'} seed {task.seed}: {result.said}", flush=True)
    return settings


def _one_thread() -> None:
    import torch

    torch.set_num_threads(THREADS)


def never() -> bool:
    """Nobody asks to stop."""
    return False


def train_warmup(config: Config, data: MultimodalData) -> Done:
    """The warm-up of ``config``, where there is none yet that is interchangeable with it, in this experiment or another."""
    if find_matching_warmup(config, data) is not None:
        return Done(ALREADY)
    run = open_run(f"warmup seed {config.run.seed}")
    try:
        result = run_stage(warmup_plan(config), data, run, never)
    except Diverged:
        run.terminate("FAILED")
        return Done(DIVERGED)
    return Done(f"gap {result.progress.points[-1].metrics['gap/mean']:+.3f}")


def started_warmup(config: Config, data: MultimodalData) -> TrackedRun:
    """The warm-up of ``config``. Raises Diverged where there is none: warm-ups are trained before what starts from them."""
    found = find_matching_warmup(config, data)
    if found is None:
        raise Diverged("the warm-up with these settings has diverged")
    return found


def train_row(
    task: Task, data: MultimodalData, settings: str, train: Callable[[TrackedRun], StageResult], *, test: bool
) -> Done:
    """One row at one seed, where there is no run of it with the same settings yet, scored on test where asked.

    Args:
        task: which row and seed.
        data: what it is trained on.
        settings: digest of everything that the result depends on: configuration, data, warm-up, code, threads. A run of other settings
            is none of this row, whatever it is called.
        train: what trains, on a run.
        test: whether it is a row of the table; else it only tunes.

    Raises:
        Diverged: a row of the table; one that only tunes is kept as failed, and not trained again.
        UserError: what was trained is not what ``settings`` stands for.
    """
    known = [finished_run(experiment(), task.row, task.seed, settings, status) for status in ("FINISHED", "FAILED")]
    if known != [None, None]:
        return Done(ALREADY, settings)
    run = open_run(f"{task.row} seed {task.seed}")
    try:
        line = f"val {train(run).progress.points[-1].metrics['val/accuracy']:.4f}"
    except Diverged:
        run.terminate("FAILED")
        if test:
            raise
        run.set_tags({ROW_TAG: task.row, "mm.seed": str(task.seed), "mm.settings": settings})
        return Done(DIVERGED, settings)
    found = run.read().data.tags.get("mm.settings")
    if found != settings:
        raise UserError(
            f"{task.row} seed {task.seed}: run {run.run_id} was trained with other settings than were asked for"
        )
    if test:
        tested = run_evaluation(run, "test", data, open_run(f"evaluate {task.row} seed {task.seed}", parent=run), "cpu")
        line += f", test {tested['test/accuracy']:.4f}"
    run.set_tags({ROW_TAG: task.row})  # last: only a run that is complete counts
    return Done(line, settings)


def score_of(row: str, settings: str) -> float:
    """Validation accuracy of a tuning row at the last epoch; 0 where its training diverged."""
    run = finished_run(experiment(), row, TUNING_SEED, settings)
    if run is None:
        failed = finished_run(experiment(), row, TUNING_SEED, settings, "FAILED")
        assert failed is not None, f"{row} was not trained"
        return 0.0
    return run.metrics["val/accuracy"]
