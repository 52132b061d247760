"""The first result on `digits`: every row of README's table, by one command, continued where it was stopped.

    python -m analysis.first_result --seeds 5 --processes 2

Stage 1 is shared by all rows of a seed and optimiser; stage 2 differs. Tuning (on validation, on a seed of its own, as
many trials for the control as for the method) comes last. Runs go to the MLflow experiment ``first-result``; a row and
seed that has a finished run is not trained again. Test data are read once per finished run, for the table alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPERIMENT = "first-result"
TUNING_SEED = 1000
TUNING = {f"unimodal_weight={weight:g}": {"unimodal_weight": weight} for weight in (1.0, 2.0, 4.0)}
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
    """One training: a row at a seed, or (``row`` None) the warm-up that rows of that seed share."""

    seed: int
    settings: tuple[tuple[str, Any], ...]
    row: str | None = None
    method: str = ""
    test: bool = True


def main() -> None:
    """Tune, train what is missing, collect, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="auto", help="`quick` only tries the command out")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # read by the processes that train
    os.environ["MLFLOW_EXPERIMENT_NAME"] = EXPERIMENT if given.preset == "auto" else f"{EXPERIMENT}-{given.preset}"
    started = time.time()
    trials = [
        Task(TUNING_SEED, _items({**settings, "preset": given.preset}), f"tuning {method} {name}", method, test=False)
        for method in TUNED.values()
        for name, settings in TUNING.items()
    ]
    rows = [
        Task(seed, _items({**row.settings, "preset": given.preset}), row.name, row.method)
        for row in ROWS
        for seed in range(given.seeds)
    ]
    from mm_balance.tracking.runs import prepare_store

    prepare_store()
    _run_all([*rows, *trials], given.processes)
    chosen = {name: _best_trial(method, trials) for name, method in TUNED.items()}
    tuned = [
        Task(seed, _items({**TUNING[trial], "preset": given.preset}), name, TUNED[name])
        for name, trial in chosen.items()
        for seed in range(given.seeds)
    ]
    _run_all(tuned, given.processes)

    from analysis.tables import collect, write_result

    records = collect(os.environ["MLFLOW_EXPERIMENT_NAME"])
    write_result(records, chosen, [*(row.name for row in ROWS), *TUNED], given.out, seconds=time.time() - started)


def _items(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _warmup_task(task: Task) -> Task:
    kept = ("preset", "optimizer", "learning_rate", "warmup_unimodal_weight")
    return Task(task.seed, tuple((name, value) for name, value in task.settings if name in kept))


def _run_all(tasks: list[Task], processes: int) -> None:
    """First the warm-ups that the tasks share, then the tasks; one thread per process, so that runs repeat exactly."""
    warmups = list(dict.fromkeys(_warmup_task(task) for task in tasks))
    for phase in (warmups, tasks):
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _single_thread) as pool:
            futures = {pool.submit(_run_task, task): task for task in phase}
            for done, future in enumerate(as_completed(futures), 1):
                task = futures[future]
                print(f"[{done}/{len(phase)}] {task.row or 'warm-up'} seed {task.seed}: {future.result()}", flush=True)


def _single_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run_task(task: Task) -> str:
    from analysis.tables import ROW_TAG, finished_run
    from mm_balance.config import resolve
    from mm_balance.tracking.runs import open_run
    from mm_balance.workflow.runners import choose_warmup, find_matching_warmup, run_evaluate, run_stage2, run_warmup
    from mm_balance.workflow.setup import read_data

    def never() -> bool:
        return False

    config = resolve({**dict(task.settings), "seed": task.seed, "device": "cpu"})
    data = read_data(config)
    if task.row is None:
        if find_matching_warmup(config, data) is not None:
            return "already there"
        result = run_warmup(config, data, open_run(f"warmup seed {task.seed}"), never)
        return f"gap {result.progress.points[-1].metrics['gap/mean']:+.3f}"
    if finished_run(os.environ["MLFLOW_EXPERIMENT_NAME"], task.row, task.seed) is not None:
        return "already there"
    run = open_run(f"{task.row} seed {task.seed}")
    result = run_stage2(config, data, run, never, choose_warmup(config, data), task.method)
    line = f"val {result.progress.points[-1].metrics['val/accuracy']:.4f}"
    if task.test:
        tested = run_evaluate(run, "test", data, open_run(f"evaluate {task.row} seed {task.seed}", parent=run), "cpu")
        line += f", test {tested['test/accuracy']:.4f}"
    run.set_tags({ROW_TAG: task.row})  # last: only a run that is complete counts
    return line


def _best_trial(method: str, trials: list[Task]) -> str:
    """The setting with the best validation accuracy at the last epoch; the first of equals."""
    from analysis.tables import finished_run

    scores = {}
    for name in TUNING:
        run = finished_run(os.environ["MLFLOW_EXPERIMENT_NAME"], f"tuning {method} {name}", TUNING_SEED)
        assert run is not None
        scores[name] = run.metrics["val/accuracy"]
    print(json.dumps({method: scores}, indent=2))
    return max(scores, key=lambda name: scores[name])


if __name__ == "__main__":
    main()
