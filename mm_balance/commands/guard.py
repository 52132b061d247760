"""From a command line to an exit status: one clear line for a user's mistake, no run left RUNNING."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from mm_balance.commands.registry import COMMANDS
from mm_balance.errors import Interrupted, UserError
from mm_balance.memory import keep_freed_memory

if TYPE_CHECKING:
    from mm_balance.tracking.runs import TrackedRun

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


def run_command(name: str, words: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        name: key of ``COMMANDS``.
        words: without the program's name; None = those of this process.

    Returns:
        0 = finished; 1 = a mistake or a failure that the user can put right; 128 + n = stopped by signal n.
    """
    command = COMMANDS[name]
    return run_guarded(lambda given, stop: command.run(command.parse(given), stop), words)


def run_guarded(body: Callable[[list[str], StopRequest], None], words: Sequence[str] | None = None) -> int:
    """Run ``body`` with the command line's words; its mistakes and stops become an exit status, see ``run_command``."""
    stop = StopRequest()
    keep_freed_memory()
    try:
        body(sys.argv[1:] if words is None else list(words), stop)
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


def close_adopted(resumed: TrackedRun) -> None:
    """End the run that ``mlflow run`` made, where this process went on with another one."""
    adopted = _adopted()
    if adopted is not None and adopted.run_id != resumed.run_id:
        adopted.set_tags({"resumed_run": resumed.run_id})
        adopted.describe(f"This run only continued run `{resumed.run_id}`.")
        adopted.terminate("FINISHED")


def _fail_adopted(line: str) -> None:
    """Say on the run that ``mlflow run`` made why nothing happened in it."""
    if (run := _adopted()) is not None:
        run.set_tags({"mm.error": line[:500]})
        run.describe(f"Failed: {line}")
        run.terminate("FAILED")


def _end_adopted(status: str) -> None:
    """End the run that ``mlflow run`` made, where nothing else has."""
    if (run := _adopted()) is not None and run.read().info.status == "RUNNING":
        run.terminate(status)


def _adopted() -> TrackedRun | None:
    """The run that ``mlflow run`` has made for this process, if any."""
    if "MLFLOW_RUN_ID" not in os.environ:  # MLflow takes seconds to load
        return None
    from mm_balance.tracking.lookup import adopted_run_id, existing_run

    identity = adopted_run_id()
    return None if identity is None else existing_run(identity, "MLFLOW_RUN_ID")
