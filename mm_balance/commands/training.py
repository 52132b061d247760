"""What the commands that train share: open or continue a run, read its data, end it well whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mm_balance import names
from mm_balance.commands.command import Command, Given, Stop
from mm_balance.commands.guard import close_adopted
from mm_balance.config import Config, format_value, options, restore
from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import find_method
from mm_balance.tracking.lookup import children, existing_run, open_run, run_link, tracking_uri
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.report import accuracies
from mm_balance.workflow.setup import read_data, resolve_device
from mm_balance.workflow.stage import StageResult, saved_state

P = TypeVar("P")


@dataclass(frozen=True)
class Training(Generic[P]):
    """What a command trains with.

    Attributes:
        plan: what to train; of a run that is continued, as it was started.
        data: what to train on.
        run: its run.
        warmup: the run that it starts from; None = from scratch, or from its own checkpoint.
    """

    plan: P
    data: MultimodalData
    run: TrackedRun
    warmup: TrackedRun | None


@contextmanager
def open_training(
    command: Command,
    given: Given,
    stop: Stop,
    make_plan: Callable[[Config], P],
    *,
    choose_warmup: Callable[[Config, MultimodalData], TrackedRun | None] = lambda config, data: None,
) -> Iterator[Training[P]]:
    """Open a run to train in, or the one to continue; on leaving, no run is left RUNNING.

    Args:
        command: which.
        given: its parameters.
        stop: asked while data are decoded.
        make_plan: what to train; raises UserError for a configuration that cannot be trained, before anything is read.
        choose_warmup: the run to start from.

    Raises:
        UserError: a mistake in the parameters or the data.
    """
    resumed = existing_run(given["resume_run"], "resume_run") if given.get("resume_run") else None
    state = None if resumed is None else saved_state(resumed)
    config = command.resolve(given) if resumed is None else _resumed_config(command, given, resumed, state)
    resolve_device(config.run.device)
    plan = make_plan(config)
    data = read_data(config, stop)
    if resumed is not None:
        check_same_data(resumed, data)
    # What a run that has a checkpoint began from is in there.
    warmup = choose_warmup(config, data) if state is None else None
    what = find_method(config.method.method).name if command.name == "train" else command.name
    run = resumed or open_run(f"{what} {data.name} seed {config.run.seed}")
    if resumed is not None:
        resumed.reopen()
    try:
        yield Training(plan, data, run, warmup)
    except Interrupted:
        end_run(run, "KILLED")
        line = f"mlflow run . --env-manager local -e {command.name} -P resume_run={run.run_id}"
        print(f"mm-balance: stopped; go on with: {line}", file=sys.stderr)
        raise
    except BaseException as error:
        run.set_tags({"mm.error": str(error)[:500] or type(error).__name__})
        end_run(run, "FAILED")
        raise
    if resumed is not None:
        close_adopted(resumed)


def _resumed_config(command: Command, given: Given, run: TrackedRun, state: Mapping[str, Any] | None) -> Config:
    """What a run goes on with: as its checkpoint ``state`` says, before the first one as ``config.json`` does."""
    stage = run.read().data.tags.get("mm.stage")
    if stage != command.name:
        raise UserError(f"resume_run={run.run_id} is a run of {stage or 'something else'}; continue it with -e {stage}")
    saved = run.read_json(names.CONFIG_FILE) if state is None else state["record"]["config"]
    return restore({**command.fixed, **merge_resumed(given, saved)})


def merge_resumed(given: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resumed run: the saved ones, with what may change as given.

    Args:
        given: what was given now, by name.
        saved: what the run was trained with so far.

    Raises:
        UserError: a parameter that may not change is given another value; only what belongs to the machine may, and epochs may grow.
    """
    declared = options()
    merged = dict(saved)
    for name, value in given.items():
        option = declared[name]
        if name == "resume_run" or value == saved.get(name):
            continue
        if not (option.machine and not option.reference) and not (option.may_grow and value > saved[name]):
            raise UserError(
                f"resume_run: the run was started with {name}={format_value(saved.get(name))}, it cannot go on with "
                f"{name}={format_value(value)} (only device and data_dir may change, and epochs may grow)"
            )
        merged[name] = value
    return merged


def check_same_data(run: TrackedRun, data: MultimodalData) -> None:
    """Raises UserError where ``run`` was trained on other data."""
    if run.read().data.tags.get("mm.data_digest") != data.digest:
        raise UserError(
            f"run {run.run_id} was trained on other data: the digest of {data.name} is now {data.digest[:12]}"
        )


def end_run(run: TrackedRun, status: str) -> None:
    """End a run and those of its nested runs that are still open."""
    for item in (*children(run).values(), run):
        if item.read().info.status == "RUNNING":
            item.terminate(status)


def print_validation(result: StageResult) -> None:
    """The validation accuracies of a stage that ended, its run, and how to see it."""
    method, metrics = result.stage.method, result.progress.points[-1].metrics
    line = accuracies(metrics, "val", result.stage.model.modalities, branches=method.sees_others())
    print_result(result.run, line, "validation accuracy")


def print_result(run: TrackedRun, line: str, what: str) -> None:
    """The result, the run, and how to see it."""
    uri = tracking_uri()
    print(f"\n{what}: {line.replace('*', '')}")
    print(f"run:  {run.run_id}")
    if not uri.startswith("http"):
        # The whole path, so that the line works in a shell where the environment is not active.
        print(f"open: {Path(sys.executable).with_name('mlflow')} ui --backend-store-uri {uri}")
    print(f"link: {run_link(run)}")
