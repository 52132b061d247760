"""Shared by the training commands: open or resume a run, read its data, and always end it in a proper status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mm_balance import names
from mm_balance.commands.command import Command, Given, Request, Stop
from mm_balance.commands.guard import close_adopted, unless_the_store_is_away
from mm_balance.config import Config, format_value, options, restore
from mm_balance.config.datasets import is_at_hand
from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, Unwritable, UserError, reason
from mm_balance.methods import check_takes_labels, find_method
from mm_balance.stopping import LAUNCHER_VARIABLE
from mm_balance.tracking.experiment_page import prepare_page, view_link
from mm_balance.tracking.lookup import children, existing_run, open_run, relatives, run_link, tracking_uri
from mm_balance.tracking.presence import alone_on
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.duration import warn_if_long
from mm_balance.workflow.next_steps import announce, command_line
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.pretrained import check_networks
from mm_balance.workflow.provenance import recorded_parameters
from mm_balance.workflow.report import accuracies
from mm_balance.workflow.setup import read_data, resolve_device
from mm_balance.workflow.stage import StageResult, saved_state
from mm_balance.workflow.titles import overrides, run_title

P = TypeVar("P", bound=StagePlan | tuple[StagePlan, ...])
Read = Callable[[Config, Stop], MultimodalData]
"""Reads the data of a configuration."""


@dataclass(frozen=True)
class Training(Generic[P]):
    """An open run with everything a command needs to train.

    Attributes:
        plan: what to train; for a resumed run, as it was started.
        data: the data set.
        run: the run to log to.
        warmup: the run to start from; None = from scratch, or from its own checkpoint.
    """

    plan: P
    data: MultimodalData
    run: TrackedRun
    warmup: TrackedRun | None


@contextmanager
def open_training(
    command: Command,
    request: Request,
    stop: Stop,
    make_plan: Callable[[Config], P],
    *,
    choose_warmup: Callable[[Config, MultimodalData], TrackedRun | None] = lambda config, data: None,
    read: Read = read_data,
) -> Iterator[Training[P]]:
    """Open a new run, or the one to resume; no run is left RUNNING on exit.

    Args:
        command: the command.
        request: what it was asked to do.
        stop: polled while data are decoded.
        make_plan: returns what to train; raises UserError for a configuration that cannot be trained, before data are read.
        choose_warmup: returns the run to start from.
        read: reads the data.

    Raises:
        UserError: an error in the parameters or the data.
    """
    with ExitStack() as alone:
        resumed, state, config = None, None, request.config
        if config is None:
            resumed = existing_run(request.given["resume_run"], "resume_run")
            alone.enter_context(alone_on(resumed.run_id, relatives(resumed)))
            state = saved_state(resumed)
            config = _resumed_config(command, request.given, resumed, state)
        resolve_device(config.run.device)
        plan = make_plan(config)
        check_networks(config)
        data = read(config, stop)
        check_takes_labels(find_method(config.method.method), several_classes=data.several_classes)
        if resumed is not None:
            check_same_data(resumed, data)
        elif LAUNCHER_VARIABLE not in os.environ:  # the command that started this one has said it of the whole
            stages = plan if isinstance(plan, tuple) else (plan,)
            epochs = sum(stage.epochs for stage in stages)
            warn_if_long(config, data, epochs, command.parameters, command=command.name)
        # A checkpoint records the warm-up that its run started from.
        warmup = choose_warmup(config, data) if state is None else None
        run = resumed or open_run(run_title(command.name, config, data.name))
        if resumed is None:
            alone.enter_context(alone_on(run.run_id))
        line = command_line(command.name, {"resume_run": run.run_id}, at_hand=is_at_hand(config.data.dataset))
        if resumed is not None:
            resumed.reopen()
        try:
            if resumed is None:  # what it takes to go on with it, before the line says so
                run.log_json(recorded_parameters(config, command.name), names.CONFIG_FILE)
                run.set_tags({"mm.stage": command.name})
            announce(run, line)
            prepare_page(run, tuple(data.specs))
            if resumed is None and (changed := overrides(command.name, config)):
                run.set_tags({"mm.changed": " ".join(f"{name}={value}" for name, value in changed.items())})
            yield Training(plan, data, run, warmup)
        except Interrupted:
            end_run(run, "KILLED")
            print(f"mm-balance: stopped; resume with: {line}", file=sys.stderr)
            raise
        except Unwritable as error:
            fail_run(run, error)
            raise Unwritable(f"{error}; then go on with: {line}") from error
        except BaseException as error:
            fail_run(run, error)
            raise
        if resumed is not None:
            close_adopted(resumed)


def _resumed_config(command: Command, given: Given, run: TrackedRun, state: Mapping[str, Any] | None) -> Config:
    """Return the configuration of a resumed run, from its checkpoint ``state``, or from ``config.json`` if there is none yet."""
    stage = run.read().data.tags.get("mm.stage")
    if stage != command.name:
        raise UserError(f"resume_run={run.run_id} is a run of {stage or 'something else'}; resume it with -e {stage}")
    saved = run.saved_config() if state is None else state["record"]["config"]
    return restore({**command.fixed, **merge_resumed(given, saved)})


def merge_resumed(given: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a resumed run: the saved ones, updated with given values that may change.

    Args:
        given: parameters given now, by name.
        saved: parameters that the run was trained with so far.

    Raises:
        UserError: another value is given for a parameter that may not change; only machine parameters may, and epochs may grow.
    """
    declared = options()
    merged = dict(saved)
    for name, value in given.items():
        option = declared[name]
        if name == "resume_run" or value == saved.get(name):
            continue
        if not (option.machine and not option.reference) and not (option.may_grow and value > saved[name]):
            raise UserError(
                f"resume_run: the run was started with {name}={format_value(saved.get(name))}, it cannot be resumed with "
                f"{name}={format_value(value)} (only device and data_dir may change, and epochs may grow)"
            )
        merged[name] = value
    return merged


def check_same_data(run: TrackedRun, data: MultimodalData) -> None:
    """Raise UserError if ``run`` was trained on different data; one that was killed before it noted its data was not trained."""
    if run.read().data.tags.get("mm.data_digest", data.digest) != data.digest:
        raise UserError(
            f"run {run.run_id} was trained on different data: the digest of {data.name} is now {data.digest[:12]}"
        )


def end_run(run: TrackedRun, status: str) -> None:
    """End a run and its nested runs, where they are still RUNNING."""
    for item in (*children(run).values(), run):
        if item.read().info.status == "RUNNING":
            item.terminate(status)


def fail_run(run: TrackedRun, error: BaseException) -> None:
    """End a run, and its nested runs, as FAILED, with the reason on its page, as far as the store can be written."""
    with unless_the_store_is_away():
        run.set_tags({"mm.error": reason(error)})
        end_run(run, "FAILED")


@contextmanager
def failing(run: TrackedRun) -> Iterator[None]:
    """End ``run`` as FAILED if the body raises an error."""
    try:
        yield
    except BaseException as error:
        fail_run(run, error)
        raise


def add_explorer(training: Training[Any], config: Config, stop: Stop) -> None:
    """Log the explorer on a finished run; if that fails, say so: the run itself is complete."""
    from mm_balance.workflow.explore import explore

    if config.explore.worst == 0:
        return
    try:
        explore(training.run, training.data, config, worst=config.explore.worst, stop=stop)
    except (UserError, OSError) as error:
        again = command_line("explore", {"run_id": training.run.run_id})
        print(f"mm-balance: {names.EXPLORER_FILE} was not written: {error}; make it with: {again}", file=sys.stderr)


def print_validation(result: StageResult) -> None:
    """Print the validation accuracies of a finished stage, its run, and how to view it."""
    method, metrics = result.stage.method, result.progress.points[-1].metrics
    line = accuracies(metrics, "val", result.stage.model.modalities, branches=method.sees_others())
    print_result(result.run, line, "validation accuracy")


def print_result(run: TrackedRun, line: str, label: str) -> None:
    """Print a labeled result, its run, and how to view it."""
    uri = tracking_uri()
    print(f"\n{label}: {line.replace('*', '')}")
    print(f"run:  {run.run_id}")
    if not uri.startswith("http"):
        # The full path works in shells where the virtual environment is not active.
        print(f"open: {Path(sys.executable).with_name('mlflow')} ui --backend-store-uri {uri}")
    print(f"link: {run_link(run)}")
    print(f"all:  {view_link(run)}")
