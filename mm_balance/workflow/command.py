"""From a command line to an exit status: one clear line for a user's mistake, no run left RUNNING."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from mm_balance import names
from mm_balance.config import Config, entry_point_options, parse_arguments, resolve, restore
from mm_balance.data import MultimodalData, prepare_raw
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import METHODS, find_method, option_lines, parse_options
from mm_balance.tracking.lookup import adopted_run_id, children, existing_run, open_run, run_link, tracking_uri
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.card import log_data
from mm_balance.workflow.provenance import applied
from mm_balance.workflow.report import accuracies, describe_data
from mm_balance.workflow.runners import (
    choose_warmup,
    merge_resumed,
    run_evaluate,
    run_main,
    run_stage2,
    run_train,
    run_warmup,
)
from mm_balance.workflow.setup import decoding, file_options, read_data, resolve_device
from mm_balance.workflow.stage import saved_state

AGAIN_SECONDS = 1.0


class StopRequest:
    """SIGTERM and SIGINT ask for a stop after the batch under way; another SIGINT, by hand, ends the process at once.

    One Ctrl-C under `mlflow run` is two signals: the terminal's SIGINT and MLflow's SIGTERM a moment later. So what comes within
    ``AGAIN_SECONDS``, and any SIGTERM, asks for the same again.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def __call__(self) -> bool:
        return self.signal is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGINT and time.monotonic() - self.since > AGAIN_SECONDS:
                raise KeyboardInterrupt
            return
        self.signal, self.since = number, time.monotonic()
        print(f"mm-balance: {signal.Signals(number).name}: saving a checkpoint after this batch", file=sys.stderr)


def command(entry_point: str, arguments: Sequence[str] | None = None) -> int:
    """Run an entry point.

    Returns:
        0 = finished; 1 = a mistake or a failure that the user can put right; 128 + n = stopped by signal n.
    """
    return run_guarded(lambda words, stop: _dispatch(entry_point, words, stop), arguments)


def run_guarded(body: Callable[[list[str], StopRequest], None], arguments: Sequence[str] | None = None) -> int:
    """Run ``body`` with the command line's words; its mistakes and stops become an exit status, see ``command``."""
    stop = StopRequest()
    try:
        body(sys.argv[1:] if arguments is None else list(arguments), stop)
    except UserError as error:
        line = " ".join(str(error).split())
        print(f"mm-balance: error: {line}", file=sys.stderr)
        _fail_adopted(line)
        return 1
    except Interrupted:
        _end_adopted("KILLED")
        return 128 + (stop.signal or signal.SIGTERM)
    except KeyboardInterrupt:
        print("mm-balance: ended at once; what its last checkpoint had is kept", file=sys.stderr)
        _end_adopted("KILLED")
        return 128 + signal.SIGINT
    return 0


def _dispatch(entry_point: str, arguments: list[str], stop: StopRequest) -> None:
    given = parse_arguments(entry_point, arguments, _method_help(arguments) if entry_point == "train" else "")
    if entry_point == "evaluate":
        _evaluate(given)
        return
    if entry_point == "prepare":
        _prepare(resolve(given), stop)
        return
    resumed = existing_run(given["resume_run"], "resume_run") if given["resume_run"] else None
    state = None if resumed is None else saved_state(resumed)
    config = resolve(given) if resumed is None else _resumed_config(entry_point, given, resumed, state)
    resolve_device(config.device)
    if entry_point == "train":  # before anything is read: a misspelt option should not take minutes to find
        parse_options(config.method, find_method(config.method).Options, config.method_options)
    data = read_data(config, stop)
    if resumed is not None:
        _check_same_data(resumed, data)
    # What a run that has a checkpoint began from is in there.
    warmup = choose_warmup(config, data) if _follows_warmup(entry_point, config) and state is None else None
    what = config.method if entry_point == "train" else entry_point
    run = resumed or open_run(f"{what} {data.name} seed {config.seed}")
    if resumed is not None:
        resumed.reopen()
    try:
        if entry_point == "main":
            final = run_main(config, data, run, stop)
            say(run, accuracies(final, "test", tuple(data.specs)), "test accuracy")
        else:
            if entry_point == "train":
                result = run_train(config, data, run, stop, warmup)
            elif entry_point == "warmup":
                result = run_warmup(config, data, run, stop)
            else:
                result = run_stage2(config, data, run, stop, warmup)
            final = result.progress.points[-1].metrics
            branches = result.stage.method.sees_others()
            say(run, accuracies(final, "val", tuple(data.specs), branches=branches), "validation accuracy")
    except Interrupted:
        _end(run, "KILLED")
        print(f"mm-balance: stopped; go on with: mlflow run . --env-manager local -e {entry_point} "
              f"-P resume_run={run.run_id}", file=sys.stderr)  # fmt: skip
        raise
    except BaseException as error:
        run.set_tags({"mm.error": str(error)[:500] or type(error).__name__})
        _end(run, "FAILED")
        raise
    if resumed is not None:
        close_adopted(resumed)


def _follows_warmup(entry_point: str, config: Config) -> bool:
    if entry_point != "train":
        return entry_point == "adaptive"
    return config.warmup_run is not None or find_method(config.method).needs_warmup


def _method_help(arguments: list[str]) -> str:
    """What ``--help`` says of the method that is named on the command line, or of all methods."""
    named = [after for before, after in pairwise(arguments) if before == "--method"]
    named += [item.removeprefix("--method=") for item in arguments if item.startswith("--method=")]
    if not named:
        return "methods:\n" + "\n".join(f"  {name}: {method.title}" for name, method in METHODS.items())
    method = find_method(named[-1])
    lines = option_lines(method.Options) or ["none"]
    return f"{method.name}: {method.title}. {method.citation}\noptions:\n" + "\n".join(f"  {line}" for line in lines)


def _evaluate(given: dict[str, Any]) -> None:
    if given["run_id"] is None:
        raise UserError("run_id is missing; give the id of a finished run of warmup, adaptive, train or main")
    source = existing_run(given["run_id"], "run_id")
    saved = source.read_json(names.CONFIG_FILE)
    config = restore({**saved, "data_dir": given["data_dir"]})
    data = read_data(config)
    _check_same_data(source, data)
    run = open_run(f"evaluate {given['split']} {source.read().info.run_name}")
    try:
        metrics = run_evaluate(source, given["split"], data, run, given["device"], probe=given["probe"])
    except BaseException:
        _end(run, "FAILED")
        raise
    branches = run.read().data.tags.get("mm.unimodal") == "branches"
    line = accuracies(metrics, given["split"], tuple(data.specs), branches=branches)
    say(run, line, f"{given['split']} accuracy")


def _prepare(config: Config, stop: StopRequest) -> None:
    if config.dataset == "digits":
        raise UserError("digits is embedded: there is nothing to prepare")
    started = time.perf_counter()
    if not config.dataset.endswith(".csv"):
        if config.source is None:
            raise UserError(f"source is missing; give the folder of the raw download of {config.dataset}")
        prepare_raw(
            config.dataset,
            Path(config.source).expanduser(),
            protocol=config.protocol,
            on_error=config.on_error,
            options=file_options(config),
            work=decoding(config, stop),
        )
    data = read_data(config, stop)
    run = open_run(f"prepare {data.name}")
    try:
        run.set_tags({"mm.stage": "prepare", "mm.dataset": data.name, "mm.data_digest": data.digest})
        run.log_config(applied(config, "prepare"))
        log_data(run, data, "prepared")
        run.log_metrics({f"data/{name}": count for name, count in data.counts.items()}, 0)
        run.describe(describe_data(data))
    except BaseException:
        _end(run, "FAILED")
        raise
    run.terminate("FINISHED")
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    print(
        f"\n{data.name}: {sizes}; skipped {len(data.skipped):,}, excluded {len(data.excluded):,}; digest {data.digest[:12]}"
    )
    for line in (*data.excluded, *data.skipped[:10]):
        print(f"  {line}")
    print(f"store: {data.folder} ({time.perf_counter() - started:.1f} s)")
    print(f"run:   {run.run_id}")
    print(f"link:  {run_link(run)}")


def _resumed_config(
    entry_point: str, given: dict[str, Any], run: TrackedRun, state: Mapping[str, Any] | None
) -> Config:
    """What a run goes on with: as its checkpoint ``state`` says, before the first one as ``config.json`` does."""
    stage = run.read().data.tags.get("mm.stage")
    if stage != entry_point:
        raise UserError(f"resume_run={run.run_id} is a run of {stage or 'something else'}; continue it with -e {stage}")
    saved = run.read_json(names.CONFIG_FILE) if state is None else state["record"]["config"]
    taken = {name: value for name, value in given.items() if name in entry_point_options(entry_point)}
    return restore(merge_resumed(taken, saved))


def _check_same_data(run: TrackedRun, data: MultimodalData) -> None:
    if run.read().data.tags.get("mm.data_digest") != data.digest:
        raise UserError(
            f"run {run.run_id} was trained on other data: the digest of {data.name} is now {data.digest[:12]}"
        )


def _end(run: TrackedRun, status: str) -> None:
    """End a run and those of its nested runs that are still open."""
    for item in (*children(run).values(), run):
        if item.read().info.status == "RUNNING":
            item.terminate(status)


def _fail_adopted(line: str) -> None:
    """Say on the run that ``mlflow run`` made why nothing happened in it."""
    if (identity := adopted_run_id()) is not None:
        run = existing_run(identity, "MLFLOW_RUN_ID")
        run.set_tags({"mm.error": line[:500]})
        run.describe(f"Failed: {line}")
        run.terminate("FAILED")


def _end_adopted(status: str) -> None:
    """End the run that ``mlflow run`` made, where nothing else has."""
    if (identity := adopted_run_id()) is not None:
        run = existing_run(identity, "MLFLOW_RUN_ID")
        if run.read().info.status == "RUNNING":
            run.terminate(status)


def close_adopted(resumed: TrackedRun) -> None:
    """End the run that ``mlflow run`` made, where this process went on with another one."""
    identity = adopted_run_id()
    if identity is not None and identity != resumed.run_id:
        adopted = existing_run(identity, "MLFLOW_RUN_ID")
        adopted.set_tags({"resumed_run": resumed.run_id})
        adopted.describe(f"This run only continued run `{resumed.run_id}`.")
        adopted.terminate("FINISHED")


def say(run: TrackedRun, line: str, what: str) -> None:
    """The result, the run, and how to see it."""
    uri = tracking_uri()
    print(f"\n{what}: {line.replace('*', '')}")
    print(f"run:  {run.run_id}")
    if not uri.startswith("http"):
        # The whole path, so that the line works in a shell where the environment is not active.
        print(f"open: {Path(sys.executable).with_name('mlflow')} ui --backend-store-uri {uri}")
    print(f"link: {run_link(run)}")
