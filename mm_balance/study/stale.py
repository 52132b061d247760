"""Trials left by dead workers, in a study that need not be continued by this version of the code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler

from mm_balance.errors import UserError
from mm_balance.redaction import HIDDEN, redact
from mm_balance.study.handle import requeue_stale
from mm_balance.study.storage import StudyLock, locate, open_storage
from mm_balance.study.trials import RUN, dead_trials, fail_dead_trials
from mm_balance.tracking.lookup import existing_run


@dataclass(frozen=True)
class StaleTrial:
    """A running trial whose worker is dead.

    Attributes:
        number: its number.
        run_id: its run; empty if the worker died before it made one.
        close: fails it, and queues it to be continued unless it was killed before.
    """

    number: int
    run_id: str
    close: Callable[[], object]


def stale_trials(study_name: str, storage: str, parent_run: str) -> list[StaleTrial]:
    """Return the stale trials of a study.

    Args:
        study_name: its name.
        storage: its storage, as its run says.
        parent_run: its run.

    Raises:
        UserError: the storage is not on this machine, cannot be opened, or has no such study.
    """
    if HIDDEN in storage:
        raise UserError("its storage has a password, which its run does not tell; the same study command sees to them")
    location = locate(storage, study_name)
    if "://" not in location and not Path(location).is_file():
        raise UserError(f"there is no {location} on this machine")
    store = open_storage(location, requeue_stale)
    try:
        study = optuna.load_study(study_name=study_name, storage=store, sampler=RandomSampler())
    except KeyError:
        raise UserError(f"{redact(location)} has no such study") from None
    lock, parent = StudyLock(store, location, study_name), existing_run(parent_run, f"study {study_name}: its run")

    def close() -> None:
        with lock:
            fail_dead_trials(study, parent)

    return [StaleTrial(trial.number, trial.user_attrs.get(RUN, ""), close) for trial in dead_trials(study)]
