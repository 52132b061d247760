"""A limit of memory for decoding, so that a damaged or hostile file is refused instead of filling the machine."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import av

from mm_balance.data.files import DecodeError

MEBIBYTE = 1 << 20
LIMIT = 2_048 * MEBIBYTE
"""Memory that decoding may take beyond what the process has at the start, bytes. The largest files that are accepted (see
``PICTURE_PIXELS`` and ``FRAME_PIXELS`` in ``mm_balance.data.frames``) need about half of it."""
_allowed: int | None = None


class NotEnoughMemory(DecodeError):
    """Decoding a file needs more memory than it may have. It may work on another day, so it is tried again."""


@contextmanager
def limited_memory(limit: int = LIMIT) -> Iterator[None]:
    """Limit the memory of this process to what it has now plus ``limit`` bytes, on Linux. On other systems there is no limit.

    It is a soft limit on private writable memory. Allocations beyond it fail; libraries report that as MemoryError, some of
    them end the process.
    """
    global _allowed
    now = _private_memory()
    if now is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = now + limit
    chosen = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    before = _allowed
    resource.setrlimit(resource.RLIMIT_DATA, (chosen, hard))
    _allowed = max(0, chosen - now)
    try:
        yield
    finally:
        _allowed = before
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turn the errors of libraries that lack memory into NotEnoughMemory. Also usable as a decorator."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError, av.FFmpegError) as error:
        if not _is_memory_error(error):
            raise
        amount = "memory than there is" if _allowed is None else f"than {_allowed // MEBIBYTE:,} MiB of memory"
        raise NotEnoughMemory(f"needs more {amount}") from error


def _is_memory_error(error: Exception) -> bool:
    # torch raises RuntimeError, PyAV a class of its own.
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or "allocate memory" in str(error)
    )


def _private_memory() -> int | None:
    """Return the private writable memory of this process in bytes; None = this system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return None
