"""One job as a run: trained, continued, or found; tested once. A run that does not succeed says why."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from mm_balance.config import Config
from mm_balance.data import MultimodalData
from mm_balance.errors import Diverged, Interrupted, UserError, reason
from mm_balance.escaping import markdown_text
from mm_balance.methods import find_method
from mm_balance.redaction import redact
from mm_balance.reproduction import pool
from mm_balance.reproduction.plan import Job
from mm_balance.tracking.experiment_page import prepare_page
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.query import RunRecord, find_runs
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.provenance import circumstances, fingerprint
from mm_balance.workflow.report import accuracies
from mm_balance.workflow.runs import run_evaluation, run_stage
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.titles import overrides, run_title, short_title
from mm_balance.workflow.warmups import find_matching_warmup

TRAINED, FOUND, DIVERGED, FAILED, STOPPED = "trained", "already there", "diverged", "failed", "stopped"
ROW_TAG, JOB_TAG, DIVERGED_TAG, ERROR_TAG = "mm.row", "mm.job", "mm.diverged", "mm.error"
KEPT_DATA = 2
"""Data sets that a process keeps: rows that follow one another mostly share theirs."""

_kept: dict[Hashable, MultimodalData] = {}


@dataclass(frozen=True)
class Task:
    """A job with what identifies its training here: equal identity = the same training, no need to repeat it."""

    job: Job
    identity: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: ``trained``, ``already there``, ``diverged``, ``failed`` or ``stopped``.
        message: accuracies, or why it did not succeed.
        run_id: its run; empty if there is none.
        seconds: how long it took now.
    """

    status: str
    message: str = ""
    run_id: str = ""
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        return self.status in (TRAINED, FOUND)


def task_of(job: Job, data: MultimodalData) -> Task:
    """Return the task of a job, as this process would do it now.

    Args:
        job: the job.
        data: the data of the preset, without what a row changes in them; the identity covers that by the row's settings.
    """
    by = circumstances(job.config)
    values = {
        "data": [data.digest, data.splits["train"].samples_digest],
        "settings": job.warmup_key if job.is_warmup else dict(job.settings),
        "warmup": job.warmup_key if job.after_warmup else None,
        "seed": job.seed,
        "trained_by": by,
    }
    return Task(job, hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest())


def experiment() -> str:
    """Return the name of the experiment that all runs of the plan belong to."""
    return os.environ["MLFLOW_EXPERIMENT_NAME"]


def data_of(config: Config) -> MultimodalData:
    """Read the data of a configuration, unless this process has just used them."""
    key = (config.data, config.input, config.prepare, config.corruption, config.digits)
    if key not in _kept:
        while len(_kept) >= KEPT_DATA:
            del _kept[next(iter(_kept))]
        _kept[key] = read_data(config, pool.stop_requested)
    return _kept[key]


def do(task: Task) -> Outcome:
    """Do a job in a worker process. Whatever happens in it is its outcome; only a tracking store that is gone raises."""
    started = time.perf_counter()
    with pool.busy():
        outcome = _attempt(task)
    return replace(outcome, seconds=time.perf_counter() - started)


def _attempt(task: Task) -> Outcome:
    job, run = task.job, None
    try:
        done = finished(runs_of(task))
        run_id = "" if done is None else done.run_id
        if not run_id:
            data = data_of(job.config)
            if job.is_warmup and (warmup := find_matching_warmup(job.config, data)) is not None:
                return Outcome(FOUND, run_id=warmup.run_id)
            run = _open(task, data)
            _train(job, data, run)
            run_id, run = run.run_id, None  # it is complete: what follows cannot fail it
        if job.is_warmup:
            return Outcome(TRAINED if done is None else FOUND, run_id=run_id)
        return _tested(task, run_id)
    except Interrupted:
        if run is not None:
            run.terminate("KILLED")
        return Outcome(STOPPED)
    except Exception as error:  # any error ends this row, and no other
        expected = isinstance(error, UserError)
        message = reason(error, with_type=not expected)
        if not expected:
            sys.stderr.write(redact(traceback.format_exc()))
        diverged = isinstance(error, Diverged)
        if run is not None:
            fail(run, message, diverged=diverged)
        return Outcome(DIVERGED if diverged else FAILED, message, "" if run is None else run.run_id)


def runs_of(task: Task) -> list[RunRecord]:
    """Return the runs of a task in the experiment, in any status, newest first."""
    statuses = ("FINISHED", "FAILED", "KILLED")
    return [run for status in statuses for run in find_runs(experiment(), {JOB_TAG: task.identity}, status)]


def finished(runs: Iterable[RunRecord]) -> RunRecord | None:
    """Return the newest finished run among the runs of a task; None if there is none."""
    return next((run for run in runs if run.status == "FINISHED"), None)


def diverged(runs: Iterable[RunRecord]) -> Outcome | None:
    """Return the outcome of the run that diverged among the runs of a task: training it again would diverge again."""
    for run in runs:
        if run.status == "FAILED" and DIVERGED_TAG in run.tags:
            return Outcome(DIVERGED, run.tags.get(ERROR_TAG, ""), run.run_id)
    return None


def fail(run: TrackedRun, message: str, *, diverged: bool = False) -> None:
    """End a run as FAILED, with the reason on its page; ``diverged``: repeating it would not help."""
    run.set_tags({ERROR_TAG: message, **({DIVERGED_TAG: "true"} if diverged else {})})
    run.describe(f"Failed: {markdown_text(message)}")
    run.terminate("FAILED")


def _open(task: Task, data: MultimodalData) -> TrackedRun:
    """Return the run of an earlier command that was stopped, to continue it, or a new one."""
    job = task.job
    stopped = [run for run in runs_of(task) if run.status == "KILLED"]
    if stopped:
        run = TrackedRun(stopped[0].run_id)
        run.reopen()
        return run
    command = job.plan.stage
    tags = {ROW_TAG: job.label, JOB_TAG: task.identity, "mm.seed": str(job.seed)}
    run = open_run(run_title(command, job.config, data.name), tags=tags)
    prepare_page(run, tuple(data.specs))
    if changed := overrides(command, job.config):
        run.set_tags({"mm.changed": " ".join(f"{name}={value}" for name, value in changed.items())})
    return run


def _train(job: Job, data: MultimodalData, run: TrackedRun) -> None:
    warmup = _warmup_of(job, data) if job.after_warmup else None
    run_stage(job.plan, data, run, pool.stop_requested, warmup)


def _warmup_of(job: Job, data: MultimodalData) -> TrackedRun:
    """Return the warm-up of a job, which was trained before it. Raises UserError if that has failed, Diverged if it diverges."""
    warmup = find_matching_warmup(job.config, data)
    if warmup is not None:
        return warmup
    failed = find_runs(experiment(), {"mm.fingerprint": fingerprint(job.config, data), "mm.stage": "warmup"}, "FAILED")
    if not failed:
        raise UserError("its warm-up failed before it began to train")
    if DIVERGED_TAG in failed[0].tags:
        raise Diverged(f"its warm-up diverges (run {failed[0].run_id})")
    raise UserError(f"its warm-up failed (run {failed[0].run_id}): {failed[0].tags.get(ERROR_TAG)}")


def _tested(task: Task, run_id: str) -> Outcome:
    """Test a trained run, unless it has been tested."""
    job, data, run = task.job, data_of(task.job.config), TrackedRun(run_id)
    branches = find_method(job.plan.method).sees_others()
    tested = evaluations(find_runs(experiment(), {"mm.evaluated_run": run_id}))
    if run_id in tested:
        return Outcome(FOUND, accuracies_of(tested[run_id], branches=branches), run_id)
    title = short_title("evaluate test", job.config, data.name)
    evaluation = open_run(title, parent=run, tags={ROW_TAG: job.label, "mm.seed": str(job.seed)})
    try:
        metrics = run_evaluation(run, "test", data, evaluation, job.config.run.device)
    except BaseException as error:
        fail(evaluation, reason(error))
        raise
    return Outcome(TRAINED, accuracies(metrics, "test", tuple(data.specs), branches=branches), run_id)


def accuracies_of(evaluation: RunRecord, *, branches: bool = False) -> str:
    """Format the accuracies of an evaluation on the test split."""
    prefix = "test/accuracy_"
    modalities = tuple(name.removeprefix(prefix) for name in evaluation.metrics if name.startswith(prefix))
    return accuracies(evaluation.metrics, "test", modalities, branches=branches)


def evaluations(runs: Iterable[RunRecord]) -> dict[str, RunRecord]:
    """Return the evaluations on the test split among ``runs``, by the id of the evaluated run."""
    return {run.tags["mm.evaluated_run"]: run for run in runs if run.tags.get("mm.split") == "test"}


def close_dead(task: Task | None = None) -> None:
    """End as KILLED what a dead process has left RUNNING, so that it is continued: of one task, or of the whole plan.

    Only for a command that knows that nobody else works on the plan.
    """
    tags = {} if task is None else {ROW_TAG: task.job.label, "mm.seed": str(task.job.seed)}
    for run in find_runs(experiment(), tags, "RUNNING"):
        if ROW_TAG in run.tags:
            TrackedRun(run.run_id).terminate("KILLED")


def fail_dead(task: Task, message: str) -> Outcome:
    """Fail the run that the dead processes of a task have left, if there is one."""
    left = [run for run in runs_of(task) if run.status == "KILLED"]
    if left:
        fail(TrackedRun(left[0].run_id), message)
    return Outcome(FAILED, message, left[0].run_id if left else "")


def seconds_of(run: RunRecord) -> float:
    """Return how long a finished run took, from what it logged."""
    return sum(
        value
        for name, value in run.metrics.items()
        if name.startswith("time/") and name != "time/refit_logging_seconds"
    )
