"""Creating, running and continuing a study; running as a worker of one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
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
    stage_options,
    study_options,
    validate,
)
from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, UserError, reason
from mm_balance.methods import check_takes_labels, find_method
from mm_balance.redaction import redact
from mm_balance.stopping import LAUNCHER_VARIABLE
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
from mm_balance.study.handle import StudyHandle, creating, find_study, make_study
from mm_balance.study.report import BestValueLogger, best_so_far, best_trial, publish
from mm_balance.study.settings import (
    Settings,
    automatic_name,
    configured_values,
    new_settings,
    rounded,
    warmup_is_shared,
)
from mm_balance.study.storage import study_folder
from mm_balance.study.trials import ORIGIN, TRIALS, all_trials, count_trials, fail_dead_trials
from mm_balance.study.worker import run_worker
from mm_balance.study.worker_pool import WorkerPool, train_warmups
from mm_balance.tracking import presence
from mm_balance.tracking.lookup import adopted_run_id, open_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.card import log_data
from mm_balance.workflow.duration import warn_if_long
from mm_balance.workflow.next_steps import announce
from mm_balance.workflow.plans import method_options
from mm_balance.workflow.provenance import (
    FollowedWarmup,
    recorded_parameters,
    stage_tags,
    training_code,
    warmup_settings,
)
from mm_balance.workflow.setup import read_data, resolve_device
from mm_balance.workflow.warmups import choose_warmup, find_matching_warmup

Stop = Callable[[], bool]
SAME_COMMAND = "the same command"


@dataclass
class _Launch:
    """State of one `study` command."""

    name: str
    study_config: StudyConfig
    config: Config
    settings: Settings
    slots: list[Slot]
    data: MultimodalData
    stop: Stop
    started: float
    warmup_epochs: int = 0


def _plan(given: Mapping[str, Any], stop: Stop) -> _Launch:
    """Resolve a command's parameters, without creating anything yet."""
    preset = read_preset(given.get("preset", AUTO))
    study_config = StudyConfig(
        **{name: {**preset, **given}.get(name, option.unset) for name, option in study_options().items()}
    )
    training = {name: value for name, value in given.items() if name not in study_options()}
    values = apply_preset(training)
    config = validate(values)
    method_options(config)  # a misspelled option is reported before anything is read
    slots = assign(
        choose_devices(study_config.devices, visible_devices()),
        None if study_config.workers == AUTO else study_config.workers,
        own_cores(),
    )
    data = read_data(config, stop)
    check_takes_labels(find_method(config.method.method), several_classes=data.several_classes)
    settings = new_settings(
        study_config, values, threads=threads_of(slots), data_digest=data.digest, given=set(training)
    )
    name = automatic_name(study_config, settings) if study_config.study_name == AUTO else study_config.study_name
    return _Launch(name, study_config, config, settings, slots, data, stop, time.time())


def study_name(given: Mapping[str, Any]) -> str:
    """Return the name of the study that `study` would create or continue; it depends on settings, data and code.

    Args:
        given: parameters by name, as given to the command.
    """
    return _plan(given, lambda: False).name


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study.

    Attributes:
        run: its run.
        objective: its first objective.
        best: the best trial in one line; empty if none is complete.
    """

    run: TrackedRun
    objective: str
    best: str


def run_study(given: Mapping[str, Any], stop: Stop) -> FinishedStudy:
    """Create or continue a study, and run it until it has all its trials.

    Args:
        given: parameters by name, of training and of the study.
        stop: polled repeatedly.

    Raises:
        UserError: an error in the parameters; the study exists with other settings; its first trials have all failed.
        Interrupted: a stop was requested.
    """
    launch = _plan(given, stop)
    name, study_config, settings = launch.name, launch.study_config, launch.settings
    torch.set_num_threads(settings.threads)  # as in the workers: warm-up fingerprints include it
    with creating(name, study_config.storage, stop):
        handle = _join(launch) or _begin(launch)
    parent = handle.parent
    with _ending(parent):
        handle.parent.set_tags(_changeable_tags(study_config))
        _run(handle, launch)
    if presence.is_first(parent.run_id):
        parent.terminate("FINISHED")
    else:
        presence.leave(parent.run_id)
    best, line = best_trial(handle), ""
    if best is not None:
        values = ", ".join(f"{item}={format_value(value)}" for item, value in rounded(best.params).items())
        line = f"{best.values[0]:.4f}, trial {best.number}, {values}"
    return FinishedStudy(parent, settings.objectives[0], line)


def _join(launch: _Launch) -> StudyHandle | None:
    """Continue the study if it exists, also while another command works on it. Raises UserError if it has other settings."""
    name, study_config = launch.name, launch.study_config
    handle = find_study(name, study_config.storage)
    if handle is None:
        return None
    if differing := launch.settings.differences(handle.settings):
        raise UserError(f"study {name} exists with other settings: {'; '.join(differing)}; give another study_name")
    for process in presence.workers_on(handle.parent.run_id):
        print(f"mm-balance: {process} works on study {name}, too: both share its trials and its run", file=sys.stderr)
    handle.parent.reopen()
    handle.study.set_user_attr(TRIALS, study_config.trials)
    announce(handle.parent, SAME_COMMAND)
    return handle


def _begin(launch: _Launch) -> StudyHandle:
    """Begin the run of a new study, and create it."""
    _warn_if_long(launch)
    name, config, data = launch.name, launch.config, launch.data
    parent = open_run(f"study {name}")
    method = find_method(config.method.method)(method_options(config), tuple(data.specs), 0)
    with _ending(parent):
        parent.set_tags(
            stage_tags(data, "study", config.run.seed, method, training_code(type(method), config)) | {"mm.study": name}
        )
        announce(parent, SAME_COMMAND)
        handle = _create(parent, launch)
        if handle.parent.run_id != parent.run_id:  # on another machine, by a storage that has no locks
            raise UserError(f"study {name} was just created by another command; run this command again to join it")
    return handle


def _warn_if_long(launch: _Launch) -> None:
    """Print one line if a study on a CPU takes long, see ``duration.warn_if_long``: all trials, the warm-up, the confirmation."""
    settings, study = launch.settings, launch.study_config
    at_once = min(len(launch.slots), len(own_cores()))
    shared, seeds = warmup_is_shared(settings.values), study.confirm_seeds
    warmups = (settings.values["warmup_run"] is None) + ceil(seeds / at_once) if shared else 0
    rounds = ceil(study.trials / at_once) + ceil(2 * seeds / at_once)
    epochs = rounds * settings.epochs + warmups * settings.values["warmup_epochs"]
    what = [f"{study.trials} trials of {settings.epochs} epochs, {at_once} at a time"]
    if warmups:
        what.append(f"warm-up of {settings.values['warmup_epochs']}")
    if seeds:
        what.append(f"{seeds} seeds to confirm the best")
    lengths = {"adaptive_epochs" if settings.adaptive else "epochs", *(["warmup_epochs"] if warmups else [])}
    unused = {"epochs", "adaptive_epochs", "warmup_epochs"} - lengths | set(settings.dimensions)
    warn_if_long(
        settings.config({}, device=launch.slots[0].device),
        launch.data,
        epochs,
        stage_options("study").keys() - unused,
        study=", ".join(what),
        may_end_early=settings.pruner != "none",
    )


@contextmanager
def _ending(parent: TrackedRun) -> Iterator[None]:
    """End the run of a study if it is stopped or fails, unless another command works on it, too."""
    try:
        yield
    except Interrupted:
        _end(parent, "KILLED")
        print("mm-balance: stopped; run the same command again to resume", file=sys.stderr)
        raise
    except BaseException as error:
        parent.set_tags({"mm.error": reason(error)})
        _end(parent, "FAILED")
        raise


def _end(parent: TrackedRun, status: str) -> None:
    if presence.workers_on(parent.run_id):
        presence.leave(parent.run_id)
    else:
        parent.terminate(status)


def _create(parent: TrackedRun, launch: _Launch) -> StudyHandle:
    """Create the study, after its warm-up: as soon as it exists, workers can start."""
    settings, device = launch.settings, launch.slots[0].device
    log_data(parent, launch.data, "training", launch.config.data.dataset)
    _ensure_warmups([settings.config({}, device=device)], parent, launch)
    record = recorded_parameters(settings.config({}), "study")
    if warmup_is_shared(settings.values):  # report mistakes in it before any trial
        warmup = FollowedWarmup.of(choose_warmup(settings.config({}, device=device), launch.data))
        settings = replace(settings, warmups={str(settings.values["seed"]): warmup.run_id})
        parent.set_tags({"mm.warmup_run": warmup.run_id, "mm.fingerprint": warmup.fingerprint})
        record |= warmup_settings(warmup) | {"warmup_run": warmup.run_id}
    parent.log_config(record)
    changing = _changeable_tags(launch.study_config)
    parameters = {f"study/{item}": format_value(value) for item, value in vars(launch.study_config).items()}
    parent.log_params({item: text for item, text in parameters.items() if item not in changing})
    handle = make_study(launch.name, launch.study_config.storage, settings, parent, launch.study_config.trials)
    # The starting configuration is the first trial, as a baseline for the others.
    configured = configured_values(settings.values)
    start = {item: configured[item] for item in settings.dimensions}
    if all(dimension.contains(start[item]) for item, dimension in settings.dimensions.items()):
        handle.study.enqueue_trial(start, user_attrs={ORIGIN: "configured"}, skip_if_exists=True)
    else:
        print(
            "mm-balance: the starting configuration lies outside the search space, so no trial uses it", file=sys.stderr
        )
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


def _changeable_tags(study_config: StudyConfig) -> dict[str, str]:
    """Return, as tags, what may change when the study is continued: MLflow parameters are immutable."""
    return {
        f"study/{name}": redact(format_value(getattr(study_config, name)))
        for name, option in study_options().items()
        if option.machine or option.may_grow
    }


def _run(handle: StudyHandle, launch: _Launch) -> None:
    try:
        _run_workers(handle, launch, BestValueLogger(handle), launch.study_config.trials)
    finally:
        if presence.is_first(handle.parent.run_id):
            publish(handle, started=launch.started, warmup_epochs=launch.warmup_epochs)
            _log_workers(handle)
    if launch.stop():
        raise Interrupted
    if not presence.is_first(handle.parent.run_id):
        return  # the first of the commands that share it does the rest
    best = best_trial(handle)
    if launch.study_config.confirm_seeds and best is not None:
        _confirm(handle, launch, best)


def _run_workers(handle: StudyHandle, launch: _Launch, on_poll: Callable[[Any], None], total: int) -> None:
    """Run workers until all trials are finished, with a progress bar."""
    direction = handle.settings.directions[0]
    with tqdm(total=total, desc=handle.name, unit="trial", dynamic_ncols=True, mininterval=1.0) as bar:
        bar.initial = bar.n = min(count_trials(all_trials(handle.study)).finished, total)

        def show_progress() -> None:
            trials = all_trials(handle.study)
            counts = count_trials(trials)
            series = best_so_far(trials, direction)
            bar.set_postfix(
                pruned=counts.pruned,
                failed=counts.failed,
                best=f"{series[-1][2]:.4f}" if series else "none",
                refresh=False,
            )
            bar.update(counts.finished - bar.n)
            on_poll(trials)

        try:
            WorkerPool(handle, launch.slots, launch.study_config.worker_restarts).run(launch.stop, show_progress)
        finally:
            with handle.lock:
                fail_dead_trials(handle.study, handle.parent)


def _confirm(handle: StudyHandle, launch: _Launch, best: Any) -> None:
    seeds = confirm.new_seeds(handle, launch.study_config.confirm_seeds)
    start = {name: value for name, value in configured_values(handle.settings.values).items() if name in best.params}
    if best.params == start:
        sentence = "The best trial is the starting configuration, so there is nothing to confirm."
        handle.parent.describe(f"{handle.parent.description()}\n\n{sentence}")
        print(f"\n{sentence}")
        return
    configs = [item.replace(device=launch.slots[0].device) for item in confirm.seed_configs(handle, seeds)]
    _ensure_warmups(configs, handle.parent, launch)
    shared = warmup_is_shared(handle.settings.values)
    warmups = {str(item.run.seed): choose_warmup(item, launch.data).run_id for item in configs if shared}
    second = confirm.open_confirmation(handle, best, seeds, warmups)
    _run_workers(second, launch, lambda trials: None, second.target_trials)
    if launch.stop():
        raise Interrupted
    trials = all_trials(second.study)
    comparison = confirm.compare(trials, best.params, seeds, handle.settings.directions[0])
    print("\n" + confirm.publish_confirmation(handle, comparison))
    # Of this command, not of the study: it may be given, or changed, when the study is continued.
    name = launch.config.registry.register_as
    if name is not None:
        sentence = confirm.register_winner(handle, trials, comparison, best.params, name)
        handle.parent.describe(f"{handle.parent.description()}\n\n{sentence}")
        print(sentence)


def _log_workers(handle: StudyHandle) -> None:
    for log in sorted(study_folder(handle.name).glob("worker-*.log")):
        handle.parent.log_plain_text(log.read_text("utf-8", errors="replace"), f"study/workers/{log.name}")


def run_as_worker(name: str, storage: str, device_name: str, stop: Stop) -> None:
    """Train trials of the study ``name`` until it has all of them.

    Args:
        name: name of the study.
        storage: its storage, or ``auto``.
        device_name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        stop: polled after every batch.

    Raises:
        UserError: there is no such study, or it was created on different data or code.
        Interrupted: a stop was requested.
    """
    keep_to_cores()
    device = resolve_device(device_name)
    handle = find_study(name, storage)
    if handle is None:
        raise UserError(
            f"there is no study {name} in storage={redact(storage)}; create it first with -e study -P study_name={name}"
        )
    data = read_data(handle.settings.config({}), stop)
    launcher = os.environ.get(LAUNCHER_VARIABLE)

    def orphaned() -> bool:
        """Whether the launcher has died, so that nothing would watch or stop this process."""
        return launcher is not None and os.getppid() != int(launcher)

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    label = f"cuda:{visible}" if device.type == "cuda" and visible else str(device)
    worker_run = None if adopted_run_id() is None else open_run(f"worker of {name}")
    if worker_run is not None:
        worker_run.set_tags({"mm.stage": "worker", "mm.study": name})
    try:
        ended = run_worker(handle, data, lambda: stop() or orphaned(), device=str(device), label=label)
    except Interrupted:
        # The launcher cannot report it any more; another one may share the study.
        if orphaned() and not presence.workers_on(handle.parent.run_id):
            handle.parent.set_tags({"mm.error": "the launcher died; run the same command again to resume"})
            handle.parent.terminate("FAILED")
        raise
    print(f"study {name}: this worker finished {ended} trials; the study has all {handle.target_trials}")
    if worker_run is not None:
        worker_run.describe(f"A worker of study `{name}` (run `{handle.parent.run_id}`): {ended} trials.")
        worker_run.terminate("FINISHED")
