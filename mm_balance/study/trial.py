"""One trial: its run, its training, its objective values."""

from __future__ import annotations

import gc
import math
import shutil
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from mm_balance.config import Config, Dimension, format_value
from mm_balance.data import MultimodalData
from mm_balance.engine.recorder import MetricPoint, OnPoint
from mm_balance.errors import Interrupted, UserError, reason
from mm_balance.folders import work_folder
from mm_balance.study.handle import StudyHandle
from mm_balance.study.settings import rounded, warmup_is_shared
from mm_balance.study.trials import CONFIRMATION, DEVICE, EPOCHS, ERROR, ORIGIN, RETRY_OF, RUN, STATUS, all_trials
from mm_balance.tracking.lookup import open_run, run_link
from mm_balance.tracking.runs import TrackedRun
from mm_balance.tracking.system_metrics import system_metrics
from mm_balance.workflow.plans import trial_plan
from mm_balance.workflow.report import accuracies, final_validation
from mm_balance.workflow.runs import run_stage
from mm_balance.workflow.stage import train_stage
from mm_balance.workflow.warmups import choose_warmup

Stop = Callable[[], bool]
Train = Callable[[Config, MultimodalData, TrackedRun, Stop, OnPoint], Mapping[str, float]]
"""Configuration, data, run, stop, callback for every metric point -> validation metrics of the selected epoch."""


def suggest(trial: optuna.Trial, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Draw a value for every dimension."""
    return {name: _suggest(trial, item) for name, item in dimensions.items()}


def _suggest(trial: optuna.Trial, item: Dimension) -> Any:
    if item.choices:
        return trial.suggest_categorical(item.name, list(item.choices))
    assert item.low is not None
    assert item.high is not None
    if isinstance(item.low, int) and isinstance(item.high, int):
        return trial.suggest_int(item.name, item.low, item.high, log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)


def run_trial(
    trial: optuna.Trial,
    parameters: Mapping[str, Any],
    handle: StudyHandle,
    data: MultimodalData,
    stop: Stop,
    *,
    device: str,
    label: str,
    train: Train | None = None,
) -> tuple[float, ...]:
    """Train with ``parameters`` (or those of the trial's confirmation), as a nested run of the study's run.

    Args:
        trial: the Optuna trial.
        parameters: its values by name.
        handle: the study.
        data: the data set.
        stop: polled after every batch.
        device: ``cpu`` or ``cuda``.
        label: display name of the device.
        train: training function; by default stage 2 or the method's stage, as `adaptive` and `train` do.

    Returns:
        The values of the objectives.

    Raises:
        optuna.TrialPruned: the pruner ended the trial.
        Interrupted: a stop was requested; the checkpoint is kept.
    """
    confirmation = trial.user_attrs.get(CONFIRMATION)
    config = _config(handle, parameters, confirmation, device)
    run = _open(trial, handle, confirmation, label)
    _adopt_checkpoint(trial, handle, run)
    on_point = _make_reporter(trial, handle)
    status, keep_checkpoint = STATUS[TrialState.FAIL], False
    try:
        metrics = (train or (_train_confirmation if confirmation else _train))(config, data, run, stop, on_point)
        values = tuple(metrics[name] for name in handle.settings.objectives)
        for name, value in zip(handle.settings.objectives, values, strict=True):
            if not math.isfinite(value):
                raise UserError(f"{name} is {value}: the training has diverged")
        status = STATUS[TrialState.COMPLETE]
        return values
    except optuna.TrialPruned:
        run.set_tags({"mm.pruned": "true"})
        status = STATUS[TrialState.PRUNED]
        raise
    except Interrupted:
        keep_checkpoint = True
        run.set_tags({"mm.error": "stopped on request; requeued as another trial"})
        raise
    except Exception as error:
        why = reason(error, with_type=True)
        trial.set_user_attr(ERROR, why)
        run.set_tags({"mm.error": why})
        run.log_plain_text(traceback.format_exc(), "error.txt")
        _free_memory()
        raise
    finally:
        _describe(run, trial, parameters, handle, confirmation, status)
        run.terminate(status)
        print(f"{handle.name} trial {trial.number}: {status}", flush=True)
        if not keep_checkpoint:
            shutil.rmtree(work_folder(run.run_id), ignore_errors=True)


def _config(
    handle: StudyHandle, parameters: Mapping[str, Any], confirmation: Mapping[str, Any] | None, device: str
) -> Config:
    if confirmation is None:
        return handle.settings.config(parameters, device=device)
    return handle.settings.config(confirmation["parameters"], device=device, seed=confirmation["seed"])


def _open(trial: optuna.Trial, handle: StudyHandle, confirmation: Mapping[str, Any] | None, label: str) -> TrackedRun:
    name = (
        f"trial-{trial.number:04d}"
        if confirmation is None
        else f"confirm {confirmation['label']} seed {confirmation['seed']}"
    )
    tags = {"mm.stage": "trial", "mm.study": handle.name, "mm.trial": str(trial.number), "mm.device": label}
    if confirmation is not None:
        tags["mm.confirms"] = confirmation["label"]
    run = open_run(name, parent=handle.parent, tags=tags)
    trial.set_user_attr(RUN, run.run_id)
    trial.set_user_attr(DEVICE, label)
    return run


def _adopt_checkpoint(trial: optuna.Trial, handle: StudyHandle, run: TrackedRun) -> None:
    """Move the checkpoint of the trial that this one retries to this run, if it is on this machine, and copy what it covers.

    Points are sent from the checkpoint, but of the refits it has only the last one.
    """
    origin = trial.user_attrs.get(RETRY_OF)
    if origin is None:
        return
    run.set_tags({"mm.retry_of": f"trial-{origin:04d}"})
    trials = {item.number: item for item in all_trials(handle.study)}
    while (
        origin is not None
    ):  # one that was stopped before it took over the checkpoint has left it with the trial before
        previous = trials[origin].user_attrs
        if RUN in previous and (old := work_folder(previous[RUN])).is_dir():
            run.copy_artifacts(TrackedRun(previous[RUN]))
            shutil.rmtree(work_folder(run.run_id), ignore_errors=True)
            old.rename(work_folder(run.run_id))
            return
        origin = previous.get(RETRY_OF)


def _make_reporter(trial: optuna.Trial, handle: StudyHandle) -> OnPoint:
    """Return a callback that reports every epoch to Optuna, and ends the trial if the pruner says so.

    The trial with the configured values is never pruned, because it is the baseline for the others. Non-finite values are not
    reported, because the pruner would prune a diverged trial, which should fail.
    """
    settings = handle.settings
    configured = ORIGIN in trial.user_attrs
    epochs = 0

    def report(point: MetricPoint) -> None:
        nonlocal epochs
        if settings.objectives[0] not in point.metrics:
            return
        epochs += 1
        trial.set_user_attr(EPOCHS, epochs)
        value = point.metrics[settings.objectives[0]]
        if len(settings.objectives) == 1 and math.isfinite(value):
            trial.report(value, epochs)
            if not configured and epochs < settings.epochs and trial.should_prune():
                raise optuna.TrialPruned(f"after {epochs} epochs")

    return report


def _train(config: Config, data: MultimodalData, run: TrackedRun, stop: Stop, on_point: OnPoint) -> Mapping[str, float]:
    shared = warmup_is_shared(config.values())
    warmup = choose_warmup(config, data) if shared else None
    plan = trial_plan(config, after_warmup=shared)
    with system_metrics(run, wanted=config.run.system_metrics):
        result = train_stage(plan, data, run, stop, warmup=warmup, as_trial=True, on_point=on_point)
    metrics = final_validation(result)
    stage = result.stage
    line = accuracies(metrics, "val", stage.model.modalities, branches=stage.method.sees_others())
    run.set_tags({"mm.result": line.replace("*", "")})
    return metrics


def _train_confirmation(
    config: Config, data: MultimodalData, run: TrackedRun, stop: Stop, on_point: OnPoint
) -> Mapping[str, float]:
    """Train a confirmation: an ordinary run with figures and model, which is never pruned.

    Its model is not registered: of all confirmations, the study registers only the winner.
    """
    config = config.replace(register_as=None)
    shared = warmup_is_shared(config.values())
    warmup = choose_warmup(config, data) if shared else None
    return final_validation(run_stage(trial_plan(config, after_warmup=shared), data, run, stop, warmup))


def _describe(
    run: TrackedRun,
    trial: optuna.Trial,
    parameters: Mapping[str, Any],
    handle: StudyHandle,
    confirmation: Mapping[str, Any] | None,
    status: str,
) -> None:
    if confirmation is not None:
        return  # described like any other run
    values = ", ".join(f"`{name}={format_value(value)}`" for name, value in rounded(parameters).items())
    ended = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed or stopped"}[status]
    run.describe(f"Trial {trial.number} of study [{handle.name}]({run_link(handle.parent)}), {ended}: {values}.")


def _free_memory() -> None:
    """Free the memory of a failed trial before the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
