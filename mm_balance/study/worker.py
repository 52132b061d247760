"""Worker of a study: trains trials until the study has as many as requested."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import optuna
import torch

from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, UserError
from mm_balance.study.handle import StudyHandle, make_sampler
from mm_balance.study.storage import new_identity, worker_lock
from mm_balance.study.trial import Train, run_trial, suggest
from mm_balance.study.trials import ERROR, WORKER, all_trials, count_trials, fail_dead_trials, requeue

IDENTITY_VARIABLE = "MM_BALANCE_WORKER"
WAIT_SECONDS = 0.5
FAILURES_AT_FIRST = 5
"""If this many trials have failed and none has succeeded, the study is at fault, not the trials."""


def run_worker(
    handle: StudyHandle,
    data: MultimodalData,
    stop: Callable[[], bool],
    *,
    device: str,
    label: str,
    train: Train | None = None,
) -> int:
    """Train trials until the study has all of them, or a stop is requested.

    Args:
        handle: the study.
        data: the data set; its digest must be that of the study.
        stop: polled between trials and after every batch.
        device: ``cpu`` or ``cuda``.
        label: display name of the device.
        train: training function, as in ``run_trial``.

    Returns:
        The number of trials that this worker has finished.

    Raises:
        Interrupted: a stop was requested; the current trial was requeued.
        UserError: the data differ from those of the study, or the first trials have all failed.
    """
    if data.digest != handle.settings.data_digest:
        raise UserError(
            f"study {handle.name} was created on different data: the digest of {data.name} here is {data.digest[:12]}, that of the "
            f"study is {handle.settings.data_digest[:12]}"
        )
    torch.set_num_threads(handle.settings.threads)
    identity = os.environ.get(IDENTITY_VARIABLE) or new_identity()
    ended = 0
    with worker_lock(handle.name, identity):
        while True:
            if stop():
                raise Interrupted
            trained = _train_next(handle, data, stop, identity, device, label, train)
            if trained is None:
                return ended
            if trained:
                ended += 1
            else:
                time.sleep(WAIT_SECONDS)


def _train_next(
    handle: StudyHandle,
    data: MultimodalData,
    stop: Callable[[], bool],
    identity: str,
    device: str,
    label: str,
    train: Train | None,
) -> bool | None:
    """Take and train one trial: True; False = all are taken, but one may be requeued; None = the study has all trials."""
    interrupted: list[int] = []

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        trial.set_user_attr(WORKER, identity)
        parameters = suggest(trial, handle.settings.dimensions)
        handle.lock.release()  # from now on others may draw, and see the values drawn here
        try:
            return run_trial(trial, parameters, handle, data, stop, device=device, label=label, train=train)
        except Interrupted:
            interrupted.append(trial.number)
            raise

    handle.lock.acquire()
    try:
        fail_dead_trials(handle.study, handle.parent)
        trials = all_trials(handle.study)
        counts = count_trials(trials)
        if counts.finished >= handle.target_trials:
            return None
        _check_failures(trials)
        if counts.finished + counts.running >= handle.target_trials:
            return False
        handle.study.sampler = make_sampler(handle.settings, len(trials))
        handle.study.optimize(objective, n_trials=1, catch=(Exception,))
    finally:
        handle.lock.release()
    if interrupted:
        with handle.lock:
            trial = next(item for item in all_trials(handle.study) if item.number == interrupted[0])
            requeue(handle.study, trial, killed=False)
        raise Interrupted
    return True


def _check_failures(trials: list[optuna.trial.FrozenTrial]) -> None:
    counts = count_trials(trials)
    if counts.failed >= FAILURES_AT_FIRST and counts.failed == counts.finished:
        reasons = (trial.user_attrs[ERROR] for trial in reversed(trials) if ERROR in trial.user_attrs)
        last = next(
            reasons, "its worker process died without an error message; see the worker's log on the study's run"
        )
        raise UserError(f"the first {counts.failed} trials have all failed; the last: {last}")
