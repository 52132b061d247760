"""Trial bookkeeping: counting, requeueing, and failing trials whose worker died."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna import Study
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from mm_balance.study.settings import rounded
from mm_balance.study.storage import worker_is_alive
from mm_balance.tracking.lookup import nested_runs
from mm_balance.tracking.runs import TrackedRun

SETTINGS = "settings"
PARENT_RUN = "parent_run"
TRIALS = "trials"
"""User attributes of a study: its settings as JSON, its MLflow run, and the requested number of trials."""
WORKER = "worker"
DEVICE = "device"
RUN = "mlflow_run"
EPOCHS = "epochs"
ERROR = "error"
RETRY_OF = "retry_of"
KILLS = "kills"
ORIGIN = "origin"
CONFIRMATION = "confirmation"
"""User attributes of a trial: worker and device; MLflow run; epochs trained; reason of a failure; the trial it retries, and how
often that was killed; ``configured`` for the trial with the starting configuration; for a confirmation, what to train."""

MAX_KILLS = 1
"""How often a killed trial is requeued."""
START_SECONDS = 60
"""Time after which the worker of a running trial without a worker name counts as dead: it died while drawing parameters."""

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
"""State of a trial -> status of its run."""


@dataclass(frozen=True)
class TrialCounts:
    """Number of trials by state, without those that were requeued as another trial."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def finished(self) -> int:
        return self.complete + self.pruned + self.failed


def count_trials(trials: list[FrozenTrial]) -> TrialCounts:
    """Count the trials of a study by state."""
    states = [trial.state for trial in counted_trials(trials)]
    return TrialCounts(
        *(
            states.count(state)
            for state in (
                TrialState.COMPLETE,
                TrialState.PRUNED,
                TrialState.FAIL,
                TrialState.RUNNING,
                TrialState.WAITING,
            )
        )
    )


def counted_trials(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return all trials except those that were requeued as another trial."""
    replaced = {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
    return [trial for trial in trials if trial.number not in replaced]


def all_trials(study: Study) -> list[FrozenTrial]:
    """Return the current trials of the storage."""
    return study.get_trials(deepcopy=False)


def requeue(study: Study, trial: FrozenTrial, *, killed: bool) -> bool:
    """Requeue a failed trial, to resume from its checkpoint.

    Args:
        study: the study.
        trial: a trial whose worker died or was stopped.
        killed: whether the worker died; only this counts towards ``MAX_KILLS``.

    Returns:
        Whether it was requeued; one that was killed too often stays failed.
    """
    kills = _kills(trial, killed=killed)
    if kills > MAX_KILLS:
        return False
    attributes = {name: trial.user_attrs[name] for name in (ORIGIN, CONFIRMATION) if name in trial.user_attrs}
    study.enqueue_trial(trial.params, user_attrs={**attributes, RETRY_OF: trial.number, KILLS: kills})
    return True


def _kills(trial: FrozenTrial, *, killed: bool) -> int:
    """Return how often a trial and those that it retries were killed, ``killed`` being the last one."""
    return int(trial.user_attrs.get(KILLS, 0)) + killed


def fail_runs(study: Study, parent: TrackedRun, number: int, reason: str) -> None:
    """Fail the run of trial ``number``, whatever its status; there is none if the worker died before creating it."""
    for run in nested_runs(parent, {"mm.study": study.study_name, "mm.trial": str(number)}):
        run.set_tags({"mm.error": reason})
        run.terminate(STATUS[TrialState.FAIL])


def fail_dead_trials(study: Study, parent: TrackedRun, alive: Callable[[str], bool] | None = None) -> list[int]:
    """Fail and requeue the trials whose workers have died. The caller must hold the study's lock.

    Workers on this machine are checked by their locks, others by the heartbeat of the storage, if it has one. Optuna itself checks
    heartbeats only when it starts a trial, which never happens for the last trials of a study.

    Returns:
        The numbers of trials detected by their locks.
    """
    fail_stale_trials(study)
    failed = []
    for trial in dead_trials(study, alive):
        # The run first: if this process dies here too, the trial is still RUNNING, and the next worker does all of it again.
        _fail_run_of_dead(study, trial, parent)
        study.tell(trial.number, state=TrialState.FAIL)
        requeue(study, trial, killed=True)
        failed.append(trial.number)
    return failed


def dead_trials(study: Study, alive: Callable[[str], bool] | None = None) -> list[FrozenTrial]:
    """Return the running trials whose workers, on this machine, have died."""
    is_alive = alive or (lambda identity: worker_is_alive(study.study_name, identity))

    def is_dead(trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(WORKER)
        return not (is_alive(owner) if owner is not None else _just_started(trial))

    return [trial for trial in all_trials(study) if trial.state == TrialState.RUNNING and is_dead(trial)]


def requeue_or_fail(study: Study, trial: FrozenTrial, parent: TrackedRun) -> None:
    """Fail the run of a failed trial whose worker has died, and requeue the trial."""
    _fail_run_of_dead(study, trial, parent)
    requeue(study, trial, killed=True)


def _fail_run_of_dead(study: Study, trial: FrozenTrial, parent: TrackedRun) -> None:
    requeued = _kills(trial, killed=True) <= MAX_KILLS
    outcome = "the trial was requeued" if requeued else "the trial had been killed before and stays failed"
    fail_runs(study, parent, trial.number, f"the worker process died; {outcome}")


def _just_started(trial: FrozenTrial) -> bool:
    started = trial.datetime_start
    return started is not None and (datetime.now() - started).total_seconds() < START_SECONDS


def describe(trial: FrozenTrial, objectives: Sequence[str]) -> dict[str, Any]:
    """Return a trial as a row of the table of trials; the value of a pruned trial is the last one reported."""
    values = trial.values or [None] * len(objectives)
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    return {
        "trial": trial.number,
        "state": trial.state.name,
        "origin": trial.user_attrs.get(ORIGIN, ""),
        **dict(zip(objectives, values, strict=True)),
        **rounded(trial.params),
        "epochs": trial.user_attrs.get(EPOCHS),
        "seconds": None if seconds is None else round(seconds, 1),
        "device": trial.user_attrs.get(DEVICE, ""),
        "retry_of": trial.user_attrs.get(RETRY_OF, ""),
        "error": trial.user_attrs.get(ERROR, ""),
        "run": trial.user_attrs.get(RUN, ""),
    }
