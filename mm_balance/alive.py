"""Files that show that a process is alive: it holds a lock on its own file, which the system releases however the process ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO


def hold(path: Path, text: str = "") -> IO[str]:
    """Make ``path`` with ``text`` in it, and lock it until the returned file is closed or this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(text)
    file.flush()
    return file


def is_held(path: Path) -> bool:
    """Whether a living process holds ``path``; False if there is no such file."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(
                file, fcntl.LOCK_SH | fcntl.LOCK_NB
            )  # shared: those who look do not take one another for its holder
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
