"""Which processes of this machine work on which runs: known to all that use the same cache folder, and true even after a SIGKILL.

Every run that a process begins, adopts or continues has a file of the process in ``alive/RUN/``, locked as long as it works on it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO

from filelock import FileLock

from mm_balance.alive import hold, is_held
from mm_balance.errors import UserError
from mm_balance.folders import cache_folder


@dataclass(frozen=True)
class Process:
    """A process that works, or has worked, on a run.

    Attributes:
        pid: its process id.
        host: name of its machine.
        command: the entry point.
        since: when it began to work on runs, in UTC.
    """

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


def this_process() -> Process:
    """Return this process, always the same."""
    return _process(os.getpid())


@cache
def _process(pid: int) -> Process:
    return Process(pid, socket.gethostname(), Path(sys.argv[0]).stem, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


@dataclass(frozen=True)
class Mark:
    """The file of a process for a run.

    Attributes:
        path: the file.
        process: whose it is; None = it was killed as it wrote it.
        alive: whether it still works on the run.
    """

    path: Path
    process: Process | None
    alive: bool


UNKNOWN = Process(0, "this machine", "unknown", "a moment ago")
"""Whose mark is not written yet."""
_held: dict[tuple[int, str], tuple[Path, IO[str]]] = {}
"""Process and run -> its file; a forked process does not have those of its parent."""
_kept: set[str] = set()
"""Runs that this process works on until ``alone_on`` ends, whatever becomes of their status."""


def folder() -> Path:
    """Return the folder of all marks."""
    return cache_folder() / "alive"


def enter(run_id: str) -> None:
    """Note that this process works on a run. If the cache folder cannot be written, nobody will know."""
    with suppress(OSError), _taking_turns():
        _enter(run_id)


def leave(run_id: str) -> None:
    """Note that this process has ended its work on a run; the marks of processes that died at it go, too."""
    if run_id in _kept:
        return
    with suppress(OSError):
        if (held := _held.pop((os.getpid(), run_id), None)) is not None:
            held[0].unlink(missing_ok=True)
            held[1].close()
        remove_dead(run_id)


def remove_dead(run_id: str) -> None:
    """Remove the marks of processes that have died."""
    place = folder() / run_id
    if not place.is_dir():
        return
    with _taking_turns():
        for mark in marks(run_id):
            if not mark.alive:
                mark.path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody works on it
            place.rmdir()


@contextmanager
def alone_on(run_id: str, relatives: Iterable[str] = (), *, parameter: str = "resume_run") -> Iterator[None]:
    """Work on a run that no other process may work on meanwhile.

    Args:
        run_id: the run.
        relatives: runs that it is nested in, or that are nested in it.
        parameter: name of the parameter that the user gave the run in.

    Raises:
        UserError: another process of this machine works on one of them; nothing is touched.
    """
    with suppress(OSError), _taking_turns():
        for item in (run_id, *relatives):
            for process in workers_on(item):
                raise UserError(
                    f"{parameter}={run_id}: {process} is at work on it; wait until it has ended, or stop it first"
                )
        _enter(run_id)
    _kept.add(run_id)
    try:
        yield
    finally:
        _kept.discard(run_id)
        leave(run_id)


def workers_on(run_id: str) -> list[Process]:
    """Return the other living processes of this machine that work on a run."""
    own = _held.get((os.getpid(), run_id), (None,))[0]
    return [mark.process or UNKNOWN for mark in marks(run_id) if mark.alive and mark.path != own]


def is_first(run_id: str) -> bool:
    """Whether this process is, of all living ones of this machine that work on a run, the first; True if nobody knows."""
    own = _held.get((os.getpid(), run_id), (None,))[0]
    living = [mark.path for mark in marks(run_id) if mark.alive]
    return own not in living or own == min(living, key=lambda path: (path.stat().st_mtime_ns, path.name))


def marks(run_id: str) -> list[Mark]:
    """Return the files of all processes for a run."""
    found = []
    for path in (folder() / run_id).glob("*"):
        try:
            process = Process(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            process = None
        found.append(Mark(path, process, is_held(path)))
    return found


def marked_runs() -> list[str]:
    """Return the ids of all runs that have marks."""
    return sorted(path.name for path in folder().glob("*/"))


def _enter(run_id: str) -> None:
    key = os.getpid(), run_id
    if key not in _held:
        path = folder() / run_id / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        _held[key] = path, hold(path, json.dumps(asdict(this_process())))


@contextmanager
def _taking_turns() -> Iterator[None]:
    folder().mkdir(parents=True, exist_ok=True)
    with FileLock(folder() / ".lock"):
        yield
