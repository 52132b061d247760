"""Making, running and continuing a study; working for one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from mm_balance.config import (
    AUTO,
    Config,
    StudyConfig,
    apply_preset,
    format_value,
    read_preset,
    study_options,
    validate,
)
from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import find_method
from mm_balance.study import confirm
from mm_balance.study.devices import (
    Slot,
    assign,
    choose_devices,
    keep_to_cores,
    own_cores,
    threads_of,
    visible_devices,
)
from mm_balance.study.handle import StudyHandle, find_study, make_study
from mm_balance.study.report import BestValueLogger, best_so_far, best_trial, publish
from mm_balance.study.settings import (
    Settings,
    automatic_name,
    configured_values,
    new_settings,
    rounded,
    warmup_is_shared,
)
from mm_balance.study.storage import shown, study_folder
from mm_balance.study.trials import ORIGIN, TRIALS, all_trials, count_trials, fail_dead_trials
from mm_balance.study.worker import LAUNCHER_VARIABLE, run_worker
from mm_balance.study.worker_pool import WorkerPool, train_warmups
from mm_balance.tracking.lookup import adopted_run_id, open_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.card import log_data
from mm_balance.workflow.plans import method_options
from mm_balance.workflow.provenance import FollowedWarmup, applied, stage_tags, warmup_settings
from mm_balance.workflow.setup import read_data, resolve_device
from mm_balance.workflow.warmups import choose_warmup, find_matching_warmup

Stop = Callable[[], bool]


@dataclass
class _Launch:
    """What one `study` command works with."""

    name: str
    asked: StudyConfig
    config: Config
    settings: Settings
    slots: list[Slot]
    data: MultimodalData
    stop: Stop
    started: float
    warmup_epochs: int = 0


def _plan(given: Mapping[str, Any], stop: Stop) -> _Launch:
    """What a command asks for; nothing is made yet."""
    preset = read_preset(given.get("preset", AUTO))
    asked = StudyConfig(
        **{name: {**preset, **given}.get(name, option.unset) for name, option in study_options().items()}
    )
    training = {name: value for name, value in given.items() if name not in study_options()}
    values = apply_preset(training)
    config = validate(values)
    method_options(config)  # a misspelled option is reported before anything is read
    slots = assign(
        choose_devices(asked.devices, visible_devices()), None if asked.workers == AUTO else asked.workers, own_cores()
    )
    data = read_data(config, stop)
    settings = new_settings(asked, values, threads=threads_of(slots), data_digest=data.digest, given=set(training))
    name = automatic_name(asked, settings) if asked.study_name == AUTO else asked.study_name
    return _Launch(name, asked, config, settings, slots, data, stop, time.time())


def study_name(given: Mapping[str, Any]) -> str:
    """The name of the study that `study` makes or continues: another one where settings, data or code differ.

    Args:
        given: parameters by name, as the command gets them.
    """
    return _plan(given, lambda: False).name


@dataclass(frozen=True)
class FinishedStudy:
    """A study that has all its trials.

    Attributes:
        run: its run.
        objective: its first objective.
        best: the best trial in one line; empty where none is complete.
    """

    run: TrackedRun
    objective: str
    best: str


def run_study(given: Mapping[str, Any], stop: Stop) -> FinishedStudy:
    """Make a study, or continue it, until it has all its trials.

    Args:
        given: parameters by name, of training and of the study.
        stop: asked again and again.

    Raises:
        UserError: a mistake in the parameters; the study exists with other settings; its first trials have all failed.
        Interrupted: a stop was requested.
    """
    launch = _plan(given, stop)
    name, asked, config, settings, data = launch.name, launch.asked, launch.config, launch.settings, launch.data
    torch.set_num_threads(settings.threads)  # like the workers: warm-up runs are told apart by it
    handle = find_study(name, asked.storage)
    if handle is not None:
        if differing := settings.differences(handle.settings):
            raise UserError(f"study {name} exists with other settings: {'; '.join(differing)}; give another study_name")
        parent = handle.parent
        parent.reopen()
        handle.study.set_user_attr(TRIALS, asked.trials)
    else:
        parent = open_run(f"study {name}")
        own = find_method(config.method.method)(method_options(config), tuple(data.specs), 0)
        parent.set_tags(stage_tags(data, "study", config.run.seed, own) | {"mm.study": name})
    try:
        handle = handle or _make(parent, launch)
        if handle.parent.run_id != parent.run_id:
            raise UserError(f"study {name} was made by another command a moment ago; this command, once more, joins it")
        handle.parent.set_tags(_asked_tags(asked))
        _run(handle, launch)
    except Interrupted:
        parent.terminate("KILLED")
        print("mm-balance: stopped; the same command goes on where it was stopped", file=sys.stderr)
        raise
    except BaseException as error:
        parent.set_tags({"mm.error": str(error)[:500] or type(error).__name__})
        parent.terminate("FAILED")
        raise
    parent.terminate("FINISHED")
    best, line = best_trial(handle), ""
    if best is not None:
        values = ", ".join(f"{item}={format_value(value)}" for item, value in rounded(best.params).items())
        line = f"{best.values[0]:.4f}, trial {best.number}, {values}"
    return FinishedStudy(parent, settings.objectives[0], line)


def _make(parent: TrackedRun, launch: _Launch) -> StudyHandle:
    """The warm-up first, so that a study which can be found can be worked on."""
    settings, device = launch.settings, launch.slots[0].device
    log_data(parent, launch.data, "training")
    _ensure_warmups([settings.config({}, device=device)], parent, launch)
    record = applied(settings.config({}), "study")
    if warmup_is_shared(settings.values):  # mistakes in it are told before any trial
        warmup = FollowedWarmup.of(choose_warmup(settings.config({}, device=device), launch.data))
        settings = replace(settings, warmups={str(settings.values["seed"]): warmup.run_id})
        parent.set_tags({"mm.warmup_run": warmup.run_id, "mm.fingerprint": warmup.fingerprint})
        record |= warmup_settings(warmup) | {"warmup_run": warmup.run_id}
    parent.log_config(record)
    changing = _asked_tags(launch.asked)
    asked = {f"study/{item}": format_value(value) for item, value in vars(launch.asked).items()}
    parent.log_params({item: text for item, text in asked.items() if item not in changing})
    handle = make_study(launch.name, launch.asked.storage, settings, parent, launch.asked.trials)
    configured = configured_values(settings.values)
    start = {item: configured[item] for item in settings.dimensions}
    if all(dimension.holds(start[item]) for item, dimension in settings.dimensions.items()):
        handle.study.enqueue_trial(start, user_attrs={ORIGIN: "configured"}, skip_if_exists=True)
    else:
        print("mm-balance: the starting configuration lies outside of the space; no trial has it", file=sys.stderr)
    return handle


def _ensure_warmups(configs: Sequence[Config], parent: TrackedRun, launch: _Launch) -> None:
    missing = [
        config
        for config in configs
        if warmup_is_shared(config.values())
        and config.start.warmup_run is None
        and find_matching_warmup(config, launch.data) is None
    ]
    if missing:
        train_warmups(missing, launch.slots, parent, launch.stop, study_folder(launch.name))
        if launch.stop():
            raise Interrupted
        launch.warmup_epochs += sum(config.warmup.warmup_epochs for config in missing)


def _asked_tags(asked: StudyConfig) -> dict[str, str]:
    """What may be others when the study is continued, for tags: MLflow's parameters can never be changed."""
    return {
        f"study/{name}": shown(format_value(getattr(asked, name)))
        for name, option in study_options().items()
        if option.machine or option.may_grow
    }


def _run(handle: StudyHandle, launch: _Launch) -> None:
    try:
        _work(handle, launch, BestValueLogger(handle), launch.asked.trials)
    finally:
        publish(handle, started=launch.started, warmup_epochs=launch.warmup_epochs)
        _log_workers(handle)
    if launch.stop():
        raise Interrupted
    best = best_trial(handle)
    if launch.asked.confirm_seeds and best is not None:
        _confirm(handle, launch, best)


def _work(handle: StudyHandle, launch: _Launch, live: Callable[[Any], None], total: int) -> None:
    """Workers until all trials are there; a bar tells how it stands."""
    direction = handle.settings.directions[0]
    with tqdm(total=total, desc=handle.name, unit="trial", dynamic_ncols=True, mininterval=1.0) as bar:
        bar.initial = bar.n = min(count_trials(all_trials(handle.study)).finished, total)

        def show_progress() -> None:
            trials = all_trials(handle.study)
            standing = count_trials(trials)
            series = best_so_far(trials, direction)
            bar.set_postfix(
                pruned=standing.pruned,
                failed=standing.failed,
                best=f"{series[-1][2]:.4f}" if series else "none",
                refresh=False,
            )
            bar.update(standing.finished - bar.n)
            live(trials)

        try:
            WorkerPool(handle, launch.slots, launch.asked.worker_restarts).run(launch.stop, show_progress)
        finally:
            with handle.lock:
                fail_dead_trials(handle.study, handle.parent)


def _confirm(handle: StudyHandle, launch: _Launch, best: Any) -> None:
    seeds = confirm.new_seeds(handle, launch.asked.confirm_seeds)
    start = {name: value for name, value in configured_values(handle.settings.values).items() if name in best.params}
    if best.params == start:
        sentence = "The best trial is the starting configuration itself: there is nothing to confirm."
        handle.parent.describe(f"{handle.parent.description()}\n\n{sentence}")
        print(f"\n{sentence}")
        return
    configs = [item.replace(device=launch.slots[0].device) for item in confirm.seed_configs(handle, seeds)]
    _ensure_warmups(configs, handle.parent, launch)
    shared = warmup_is_shared(handle.settings.values)
    chosen = {str(item.run.seed): choose_warmup(item, launch.data).run_id for item in configs if shared}
    second = confirm.open_confirmation(handle, best, seeds, chosen)
    _work(second, launch, lambda trials: None, second.wanted)
    if launch.stop():
        raise Interrupted
    told = confirm.compare(all_trials(second.study), best.params, seeds, handle.settings.directions[0])
    print("\n" + confirm.publish_confirmation(handle, told))


def _log_workers(handle: StudyHandle) -> None:
    for log in sorted(study_folder(handle.name).glob("worker-*.log")):
        handle.parent.log_bytes(log.read_bytes(), f"study/workers/{log.name}")


def run_as_worker(name: str, storage: str, device_name: str, stop: Stop) -> None:
    """Work for the study ``name`` until it has all its trials.

    Args:
        name: of the study.
        storage: where it is kept, or ``auto``.
        device_name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        stop: asked after every batch.

    Raises:
        UserError: there is no such study, or it is of other data or code.
        Interrupted: a stop was requested.
    """
    keep_to_cores()
    device = resolve_device(device_name)
    handle = find_study(name, storage)
    if handle is None:
        raise UserError(
            f"there is no study {name} in storage={shown(storage)}; make it first with -e study -P study_name={name}"
        )
    data = read_data(handle.settings.config({}), stop)
    launcher = os.environ.get(LAUNCHER_VARIABLE)

    def orphaned() -> bool:
        """The launcher is gone: nobody would watch or stop this process."""
        return launcher is not None and os.getppid() != int(launcher)

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    label = f"cuda:{visible}" if device.type == "cuda" and visible else str(device)
    own = None if adopted_run_id() is None else open_run(f"worker of {name}")
    if own is not None:
        own.set_tags({"mm.stage": "worker", "mm.study": name})
    try:
        ended = run_worker(handle, data, lambda: stop() or orphaned(), device=str(device), label=label)
    except Interrupted:
        if orphaned():  # it cannot say so itself
            handle.parent.set_tags({"mm.error": "the launcher died; the same command goes on"})
            handle.parent.terminate("FAILED")
        raise
    print(f"study {name}: this worker has ended {ended} trials; the study has all {handle.wanted}")
    if own is not None:
        own.describe(f"A worker of study `{name}` (run `{handle.parent.run_id}`): {ended} trials.")
        own.terminate("FINISHED")
