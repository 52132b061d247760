"""Whether this process has been asked to stop, for code deep down that waits and is given no ``stop``, and by whom it is watched."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

requested = threading.Event()
"""Set by the first signal; ``commands.guard`` clears it as a command begins."""

LAUNCHER_VARIABLE = "MM_BALANCE_LAUNCHER"
"""Environment variable: the process that started this one and watches it. Such a process waits where a user would get an error."""
PROJECT_VARIABLE = "MLFLOW_RUN_ID"
"""Environment variable that ``mlflow run`` sets for the process that it starts."""
SHELLS = {"bash", "dash", "fish", "ksh", "sh", "tcsh", "zsh"}
WATCH_SECONDS = 1.0


def project_process() -> psutil.Process | None:
    """Return the process of ``mlflow run`` that started this one; None if it was started otherwise.

    ``mlflow run`` starts a shell, which may or may not be replaced by the command. A shell without ``-c`` is a user's, who has set
    the variable and may log out.
    """
    if PROJECT_VARIABLE not in os.environ:
        return None
    try:
        parent = psutil.Process().parent()
        if parent is not None and parent.name() in SHELLS:
            parent = parent.parent() if "-c" in parent.cmdline() else None
    except psutil.Error:
        return None
    return None if parent is None or parent.pid == 1 else parent


@contextmanager
def watching(process: psutil.Process | None, on_death: Callable[[], None]) -> Iterator[None]:
    """Call ``on_death``, in another thread, once ``process`` has ended; None = watch nothing."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            if not _is_running(process):
                on_death()
                return

    if process is not None:
        threading.Thread(target=watch, name="watch mlflow run", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
