"""Opening files that users name: only regular ones, so that reading neither hangs nor never ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Type bits of a file's mode -> what it is."""


class DecodeError(Exception):
    """A file cannot be used; the message is the reason."""


def why_not_regular(status: os.stat_result) -> str:
    """Return why something on disk cannot be read as a file: it is a pipe, a socket, a device or a folder; empty = it can."""
    if stat.S_ISREG(status.st_mode):
        return ""
    return f"not a regular file (it is {KINDS.get(stat.S_IFMT(status.st_mode), 'something else')})"


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading.

    Raises:
        DecodeError: it is not a regular file. Reading a pipe would wait for a writer, and a device may never end.
        OSError: it cannot be opened.
    """
    if reason := why_not_regular(path.stat()):  # first, because opening some devices already does something
        raise DecodeError(reason)
    # Without waiting, in case a pipe has taken the file's place meanwhile.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if reason := why_not_regular(os.fstat(file.fileno())):
            raise DecodeError(reason)
        yield file
