"""Who holds which trial, what counts, and what becomes of trials whose worker died."""

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
"""User attributes of a study: its settings as JSON, its MLflow run, and how many trials are asked for."""
WORKER = "worker"
DEVICE = "device"
RUN = "mlflow_run"
EPOCHS = "epochs"
ERROR = "error"
RETRY_OF = "retry_of"
KILLS = "kills"
ORIGIN = "origin"
CONFIRMATION = "confirmation"
"""User attributes of a trial: who has it and where; its MLflow run; epochs trained; why it failed; which trial it takes over and
how often that was killed; ``configured`` for the trial with the values that the study began from; of a confirmation, what to train."""

MOST_KILLS = 1
"""How often a trial that was killed is taken over."""
UNCLAIMED_SECONDS = 60
"""A trial without a worker's name is one that died while its parameters were drawn, after so long."""

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
"""State of a trial -> status of its run."""


@dataclass(frozen=True)
class TrialCounts:
    """Trials by what became of them; those that another one took over are not counted."""

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def finished(self) -> int:
        return self.complete + self.pruned + self.failed


def count_trials(trials: list[FrozenTrial]) -> TrialCounts:
    """How a study stands."""
    counted = [trial.state for trial in counted_trials(trials)]
    return TrialCounts(
        *(
            counted.count(state)
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
    """All trials but those that another one has taken over."""
    replaced = {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
    return [trial for trial in trials if trial.number not in replaced]


def all_trials(study: Study) -> list[FrozenTrial]:
    """The trials as the storage knows them now."""
    return study.get_trials(deepcopy=False)


def requeue(study: Study, trial: FrozenTrial, *, killed: bool) -> bool:
    """Put a failed trial in the queue again, to go on from its checkpoint.

    Args:
        study: the study.
        trial: whose worker died, or was asked to stop.
        killed: whether it died, which counts.

    Returns:
        Whether it was; one that was killed too often stays failed.
    """
    kills = trial.user_attrs.get(KILLS, 0) + killed
    if kills > MOST_KILLS:
        return False
    kept = {name: trial.user_attrs[name] for name in (ORIGIN, CONFIRMATION) if name in trial.user_attrs}
    study.enqueue_trial(trial.params, user_attrs={**kept, RETRY_OF: trial.number, KILLS: kills})
    return True


def fail_runs(study: Study, parent: TrackedRun, number: int, reason: str) -> None:
    """Fail the run of trial ``number``, whatever it says; there is none where the worker died before it made one."""
    for run in nested_runs(parent, {"mm.study": study.study_name, "mm.trial": str(number)}):
        run.set_tags({"mm.error": reason})
        run.terminate(STATUS[TrialState.FAIL])


def fail_dead_trials(study: Study, parent: TrackedRun, alive: Callable[[str], bool] | None = None) -> list[int]:
    """Fail the trials whose workers have died, and hand them on. To be called under the claim.

    Workers of this machine are known by their locks, those of others by the heartbeat of the storage, where it has one; Optuna
    itself looks at heartbeats only when it begins a trial, which the last trials of a study would wait for in vain.

    Returns:
        The numbers of those found by their locks.
    """
    fail_stale_trials(study)
    lives = alive or (lambda identity: worker_is_alive(study.study_name, identity))
    found = []
    for trial in all_trials(study):
        if trial.state != TrialState.RUNNING:
            continue
        owner = trial.user_attrs.get(WORKER)
        if lives(owner) if owner is not None else _young(trial):
            continue
        study.tell(trial.number, state=TrialState.FAIL)
        requeue_or_fail(study, trial, parent)
        found.append(trial.number)
    return found


def requeue_or_fail(study: Study, trial: FrozenTrial, parent: TrackedRun) -> None:
    """What follows when the worker of a trial, failed by now, has died."""
    again = requeue(study, trial, killed=True)
    told = "it goes on as another trial" if again else "it had been killed before and stays failed"
    fail_runs(study, parent, trial.number, f"the worker process died; {told}")


def _young(trial: FrozenTrial) -> bool:
    started = trial.datetime_start
    return started is not None and (datetime.now() - started).total_seconds() < UNCLAIMED_SECONDS


def describe(trial: FrozenTrial, objectives: Sequence[str]) -> dict[str, Any]:
    """A trial as one row of the table of trials; a pruned one's value is the last that it reported."""
    values = trial.values or [None] * len(objectives)
    taken = trial.duration.total_seconds() if trial.duration is not None else None
    return {
        "trial": trial.number,
        "state": trial.state.name,
        "origin": trial.user_attrs.get(ORIGIN, ""),
        **dict(zip(objectives, values, strict=True)),
        **rounded(trial.params),
        "epochs": trial.user_attrs.get(EPOCHS),
        "seconds": None if taken is None else round(taken, 1),
        "device": trial.user_attrs.get(DEVICE, ""),
        "retry_of": trial.user_attrs.get(RETRY_OF, ""),
        "error": trial.user_attrs.get(ERROR, ""),
        "run": trial.user_attrs.get(RUN, ""),
    }
