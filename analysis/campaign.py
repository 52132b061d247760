"""What commands that train many runs share: processes, warm-ups trained once, scoring; they go on where they stopped."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

from analysis.tables import ROW_TAG, finished_run
from mm_balance.config import Config
from mm_balance.data import MultimodalData
from mm_balance.errors import Diverged
from mm_balance.tracking.runs import TrackedRun, open_run, prepare_store
from mm_balance.workflow.runners import find_matching_warmup, run_evaluate, run_warmup
from mm_balance.workflow.stage import StageResult

TUNING_SEED = 1000
DIVERGED = "diverged"


class Task(Protocol):
    """One training: ``row`` of a table at a seed; an empty row is the warm-up that rows of that seed share."""

    @property
    def row(self) -> str: ...

    @property
    def seed(self) -> int: ...


T = TypeVar("T", bound=Task)


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


def run_all(warmups: Sequence[T], tasks: Sequence[T], run_task: Callable[[T], str], processes: int) -> None:
    """First the warm-ups, each once, then the tasks; one thread per process, so that runs repeat exactly."""
    for phase in (list(dict.fromkeys(warmups)), tasks):
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _one_thread) as pool:
            futures = {pool.submit(run_task, task): task for task in phase}
            for done, future in enumerate(as_completed(futures), 1):
                task = futures[future]
                print(f"[{done}/{len(phase)}] {task.row or 'warm-up'} seed {task.seed}: {future.result()}", flush=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def never() -> bool:
    """Nobody asks to stop."""
    return False


def train_warmup(config: Config, data: MultimodalData) -> str:
    """The warm-up of ``config``, where there is none yet. Returns what to say of it."""
    if find_matching_warmup(config, data) is not None:
        return "already there"
    run = open_run(f"warmup seed {config.seed}")
    try:
        result = run_warmup(config, data, run, never)
    except Diverged:
        run.terminate("FAILED")
        return DIVERGED
    return f"gap {result.progress.points[-1].metrics['gap/mean']:+.3f}"


def started_warmup(config: Config, data: MultimodalData) -> TrackedRun:
    """The warm-up of ``config``. Raises Diverged where there is none: warm-ups are trained before what starts from them."""
    found = find_matching_warmup(config, data)
    if found is None:
        raise Diverged("the warm-up with these settings has diverged")
    return found


def train_row(task: Task, data: MultimodalData, train: Callable[[TrackedRun], StageResult], *, test: bool) -> str:
    """One row at one seed, where there is none yet, scored on test where asked. Returns what to say of it.

    Raises:
        Diverged: a row of the table; one that only tunes is kept as failed, and not trained again.
    """
    known = [finished_run(experiment(), task.row, task.seed, status) for status in ("FINISHED", "FAILED")]
    if known != [None, None]:
        return "already there"
    run = open_run(f"{task.row} seed {task.seed}")
    try:
        line = f"val {train(run).progress.points[-1].metrics['val/accuracy']:.4f}"
    except Diverged:
        run.terminate("FAILED")
        if test:
            raise
        run.set_tags({ROW_TAG: task.row, "mm.seed": str(task.seed)})
        return DIVERGED
    if test:
        tested = run_evaluate(run, "test", data, open_run(f"evaluate {task.row} seed {task.seed}", parent=run), "cpu")
        line += f", test {tested['test/accuracy']:.4f}"
    run.set_tags({ROW_TAG: task.row})  # last: only a run that is complete counts
    return line


def score_of(row: str) -> float:
    """Validation accuracy of a tuning row at the last epoch; 0 where its training diverged."""
    run = finished_run(experiment(), row, TUNING_SEED)
    if run is None:
        assert finished_run(experiment(), row, TUNING_SEED, "FAILED") is not None, f"{row} was not trained"
        return 0.0
    return run.metrics["val/accuracy"]
