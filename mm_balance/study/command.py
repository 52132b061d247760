"""The entry points `study` and `worker`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from mm_balance.config import (
    AUTO,
    Config,
    StudyConfig,
    fill,
    finish,
    format_value,
    options,
    parse_arguments,
    study_options,
)
from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import build_method, find_method, parse_options
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
from mm_balance.study.worker import LAUNCHER_VARIABLE, work
from mm_balance.study.worker_pool import WorkerPool, train_warmups
from mm_balance.tracking.lookup import adopted_run_id, open_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.card import log_data
from mm_balance.workflow.command import close_adopted, run_guarded, say
from mm_balance.workflow.provenance import OF_THE_WARMUP, FollowedWarmup, applied, stage_tags
from mm_balance.workflow.runners import choose_warmup, find_matching_warmup
from mm_balance.workflow.setup import read_data, resolve_device

Stop = Callable[[], bool]


def study(arguments: Sequence[str] | None = None) -> int:
    """Make or continue a study; see ``workflow.command.command`` for the exit status."""
    return run_guarded(_study, arguments)


def worker(arguments: Sequence[str] | None = None) -> int:
    """Work for a study until it has all its trials."""
    return run_guarded(_worker, arguments)


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


def _plan(words: Sequence[str], stop: Stop) -> _Launch:
    """What a command's words ask for; nothing is made yet."""
    given = parse_arguments("study", words)
    asked = StudyConfig(**{name: given[name] for name in study_options()})
    training = {name: value for name, value in given.items() if name not in study_options()}
    filled = fill(training)
    config = finish(filled)
    parse_options(config.method, find_method(config.method).Options, config.method_options)
    slots = assign(
        choose_devices(asked.devices, visible_devices()), None if asked.workers == AUTO else asked.workers, own_cores()
    )
    data = read_data(config, stop)
    settings = new_settings(
        asked, filled, threads=threads_of(slots), data_digest=data.digest, given=_set_by_user(training)
    )
    name = automatic_name(asked, settings) if asked.study_name == AUTO else asked.study_name
    return _Launch(name, asked, config, settings, slots, data, stop, time.time())


def study_name(words: Sequence[str]) -> str:
    """The name of the study that `study` with these words makes or continues: another one where settings, data or code differ."""
    return _plan(words, lambda: False).name


def _study(words: list[str], stop: Stop) -> None:
    launch = _plan(words, stop)
    name, asked, config, settings, data = launch.name, launch.asked, launch.config, launch.settings, launch.data
    torch.set_num_threads(settings.threads)  # like the workers: warm-up runs are told apart by it
    handle = find_study(name, asked.storage)
    if handle is not None:
        if told := settings.differences(handle.settings):
            raise UserError(f"study {name} exists with other settings: {'; '.join(told)}; give another study_name")
        parent = handle.parent
        parent.reopen()
        handle.study.set_user_attr(TRIALS, asked.trials)
    else:
        parent = open_run(f"study {name}")
        own = build_method(config.method, asdict(config), tuple(data.specs), 0)
        parent.set_tags(stage_tags(data, "study", config.seed, own) | {"mm.study": name})
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
    close_adopted(parent)
    best = best_trial(handle)
    if best is not None:
        values = ", ".join(f"{item}={format_value(value)}" for item, value in rounded(best.params).items())
        say(parent, f"{best.values[0]:.4f}, trial {best.number}, {values}", f"best {settings.objectives[0]}")


def _set_by_user(training: Mapping[str, Any]) -> set[str]:
    """Parameters with another value than the declared default: MLflow passes all, so no more can be known."""
    declared = options()
    return {
        name
        for name, value in training.items()
        if value != (None if declared[name].may_be_none else declared[name].default)
    }


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
        record |= {item: warmup.settings[item] for item in OF_THE_WARMUP} | {"warmup_run": warmup.run_id}
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
        if warmup_is_shared(asdict(config))
        and config.warmup_run is None
        and find_matching_warmup(config, launch.data) is None
    ]
    if missing:
        train_warmups(missing, launch.slots, parent, launch.stop, study_folder(launch.name))
        if launch.stop():
            raise Interrupted
        launch.warmup_epochs += sum(config.warmup_epochs for config in missing)


def _asked_tags(asked: StudyConfig) -> dict[str, str]:
    """What may be others when the study is continued, for tags: MLflow's parameters can never be changed."""
    return {
        f"study/{name}": shown(format_value(getattr(asked, name)))
        for name, option in study_options().items()
        if option.of_the_machine or option.may_grow
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

        def look() -> None:
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
            WorkerPool(handle, launch.slots, launch.asked.worker_restarts).work(launch.stop, look)
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
    configs = [replace(item, device=launch.slots[0].device) for item in confirm.seed_configs(handle, seeds)]
    _ensure_warmups(configs, handle.parent, launch)
    shared = warmup_is_shared(handle.settings.values)
    chosen = {str(item.seed): choose_warmup(item, launch.data).run_id for item in configs if shared}
    second = confirm.open_confirmation(handle, best, seeds, chosen)
    _work(second, launch, lambda trials: None, second.wanted)
    if launch.stop():
        raise Interrupted
    told = confirm.compare(all_trials(second.study), best.params, seeds, handle.settings.directions[0])
    print("\n" + confirm.publish_confirmation(handle, told))


def _log_workers(handle: StudyHandle) -> None:
    for log in sorted(study_folder(handle.name).glob("worker-*.log")):
        handle.parent.log_bytes(log.read_bytes(), f"study/workers/{log.name}")


def _worker(words: list[str], stop: Stop) -> None:
    keep_to_cores()
    given = parse_arguments("worker", words)
    if given["study_name"] == AUTO:
        raise UserError("study_name is missing; `study` prints it, and its run is named after it")
    name = given["study_name"]
    device = resolve_device(given["device"])
    handle = find_study(name, given["storage"])
    if handle is None:
        raise UserError(
            f"there is no study {name} in storage={shown(given['storage'])}; make it first with -e study -P study_name={name}"
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
        ended = work(handle, data, lambda: stop() or orphaned(), device=str(device), label=label)
    except Interrupted:
        if orphaned():  # it cannot say so itself
            handle.parent.set_tags({"mm.error": "the launcher died; the same command goes on"})
            handle.parent.terminate("FAILED")
        raise
    print(f"study {name}: this worker has ended {ended} trials; the study has all {handle.wanted}")
    if own is not None:
        own.describe(f"A worker of study `{name}` (run `{handle.parent.run_id}`): {ended} trials.")
        own.terminate("FINISHED")
