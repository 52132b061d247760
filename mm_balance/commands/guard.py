"""Run a command and return its exit status: user errors take one line, and no run is left RUNNING."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from mm_balance import stopping
from mm_balance.errors import MAKE_ROOM, REASON_LENGTH, Interrupted, UserError, one_line, why_unwritable
from mm_balance.escaping import markdown_text
from mm_balance.memory import keep_freed_memory
from mm_balance.redaction import redact

if TYPE_CHECKING:
    from mm_balance.tracking.runs import TrackedRun

AGAIN_SECONDS = 1.0


class StopRequest:
    """SIGTERM and SIGINT request a stop after the current batch; a second SIGINT ends the process immediately.

    One Ctrl-C under `mlflow run` sends two signals: the terminal's SIGINT, and MLflow's SIGTERM shortly after. Any SIGTERM, and any
    signal within ``AGAIN_SECONDS``, therefore counts as the same request.
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
        stopping.requested.set()
        with suppress(OSError):  # a pipe that nobody reads any more
            print(f"mm-balance: {signal.Signals(number).name}: saving a checkpoint after this batch", file=sys.stderr)


def run_guarded(body: Callable[[StopRequest], None]) -> int:
    """Run ``body`` and return its exit status.

    Returns:
        0 = finished; 1 = an error that the user can fix; 128 + n = stopped by signal n.
    """
    stopping.requested.clear()
    stop = StopRequest()
    sys.excepthook = _print_traceback
    keep_freed_memory()
    try:
        with stopping.watching(stopping.project_process(), _stop_as_mlflow_has_died):
            body(stop)
    except UserError as error:
        return _failed(str(error))
    except OSError as error:
        if not (why := why_unwritable(error)):
            raise
        return _failed(f"a file cannot be written ({why}); {MAKE_ROOM}")
    except Interrupted:
        _end_adopted("KILLED")
        return 128 + (stop.signal or signal.SIGTERM)
    except KeyboardInterrupt:
        print("mm-balance: ended immediately; the last checkpoint is kept", file=sys.stderr)
        _end_adopted("KILLED")
        return 128 + signal.SIGINT
    finally:
        _close_servers()
    return 0


def _failed(message: str) -> int:
    """Print an error that the user can fix, and return the exit status."""
    line = one_line(message)
    print(f"mm-balance: error: {line}", file=sys.stderr)
    _fail_adopted(line)
    return 1


def _stop_as_mlflow_has_died() -> None:
    """Stop as on SIGTERM: whoever ends `mlflow run` wants its training to end, and would not see that it goes on."""
    with suppress(OSError):  # a pipe that nobody reads any more
        print("mm-balance: `mlflow run` has ended without this process", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception that is a bug; its texts, and those of its causes, may hold a URL with a password."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _close_servers() -> None:
    """Have what was logged delivered to a tracking server, if one was used: importing MLflow takes seconds."""
    if "mm_balance.tracking.store" in sys.modules:
        from mm_balance.tracking.store import close_servers

        close_servers()


def close_adopted(resumed: TrackedRun) -> None:
    """End the run that ``mlflow run`` created if this process resumed another one instead."""
    adopted = _adopted()
    if adopted is not None and adopted.run_id != resumed.run_id:
        adopted.set_tags({"resumed_run": resumed.run_id})
        adopted.describe(f"This run only resumed run `{resumed.run_id}`.")
        adopted.terminate("FINISHED")


def _fail_adopted(line: str) -> None:
    """Fail the run that ``mlflow run`` created, with the reason."""
    with unless_the_store_is_away():
        if (run := _adopted()) is not None:
            run.set_tags({"mm.error": line[:REASON_LENGTH]})
            known = run.description()
            said = f"Failed: {markdown_text(line)}"
            run.describe(f"{said}\n\n{known}" if known else said)
            run.terminate("FAILED")


def _end_adopted(status: str) -> None:
    """End the run that ``mlflow run`` created if it is still RUNNING."""
    with unless_the_store_is_away():
        if (run := _adopted()) is not None and run.read().info.status == "RUNNING":
            run.terminate(status)


@contextmanager
def unless_the_store_is_away() -> Iterator[None]:
    """Skip what the end of a command cannot do because the store is away or full: the error that ended it is printed."""
    with suppress(UserError, Interrupted):
        yield


def _adopted() -> TrackedRun | None:
    """Return the run that ``mlflow run`` created for this process, if any."""
    if "MLFLOW_RUN_ID" not in os.environ:  # importing MLflow takes seconds
        return None
    from mm_balance.tracking.lookup import adopted_run_id, existing_run

    identity = adopted_run_id()
    return None if identity is None else existing_run(identity, "MLFLOW_RUN_ID")
