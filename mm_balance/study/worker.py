"""One worker: takes trials of a study until it has as many as were asked for."""

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
LAUNCHER_VARIABLE = "MM_BALANCE_LAUNCHER"
WAIT_SECONDS = 0.5
FAILURES_AT_FIRST = 5
"""When so many trials have failed and none has succeeded, the study is wrong, not the trials."""


def run_worker(
    handle: StudyHandle,
    data: MultimodalData,
    stop: Callable[[], bool],
    *,
    device: str,
    label: str,
    train: Train | None = None,
) -> int:
    """Take and train trials until the study has all, or a stop is requested.

    Args:
        handle: the study.
        data: what to train on; its digest is the study's.
        stop: asked between trials and after every batch.
        device: ``cpu`` or ``cuda``.
        label: how people call the device.
        train: see ``run_trial``.

    Returns:
        How many trials this worker has ended.

    Raises:
        Interrupted: a stop was requested; the trial under way is in the queue again.
        UserError: the data are others than the study's, or the first trials have all failed.
    """
    if data.digest != handle.settings.data_digest:
        raise UserError(
            f"study {handle.name} is of other data: the digest of {data.name} here is {data.digest[:12]}, the study's is "
            f"{handle.settings.data_digest[:12]}"
        )
    torch.set_num_threads(handle.settings.threads)
    identity = os.environ.get(IDENTITY_VARIABLE) or new_identity()
    ended = 0
    with worker_lock(handle.name, identity):
        while True:
            if stop():
                raise Interrupted
            taken = _next(handle, data, stop, identity, device, label, train)
            if taken is None:
                return ended
            if taken:
                ended += 1
            else:
                time.sleep(WAIT_SECONDS)


def _next(
    handle: StudyHandle,
    data: MultimodalData,
    stop: Callable[[], bool],
    identity: str,
    device: str,
    label: str,
    train: Train | None,
) -> bool | None:
    """Take one trial and train it: True; False = all are taken, but one may come back; None = the study has all."""
    interrupted: list[int] = []

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        trial.set_user_attr(WORKER, identity)
        parameters = suggest(trial, handle.settings.dimensions)
        handle.lock.release()  # from here on others may draw: they see what this one drew
        try:
            return run_trial(trial, parameters, handle, data, stop, device=device, label=label, train=train)
        except Interrupted:
            interrupted.append(trial.number)
            raise

    handle.lock.acquire()
    try:
        fail_dead_trials(handle.study, handle.parent)
        trials = all_trials(handle.study)
        standing = count_trials(trials)
        if standing.finished >= handle.wanted:
            return None
        _check_failures(trials)
        if standing.finished + standing.running >= handle.wanted:
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
    standing = count_trials(trials)
    if standing.failed >= FAILURES_AT_FIRST and standing.failed == standing.finished:
        reasons = (trial.user_attrs[ERROR] for trial in reversed(trials) if ERROR in trial.user_attrs)
        last = next(reasons, "its worker process died and left no reason; see the worker's log on the study's run")
        raise UserError(f"the first {standing.failed} trials have all failed; the last: {last}")
