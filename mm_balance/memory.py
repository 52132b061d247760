"""Memory allocation settings of the process."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Option numbers of ``mallopt``, from malloc.h."""
_GIGABYTE = 1 << 30


def keep_freed_memory() -> None:
    """Keep freed memory for the next batch (Linux only). Call it before the first tensor is created.

    Batches and activations take tens of megabytes. By default each one is allocated in fresh pages. With huge pages (a setting that
    torch reads at its first allocation) and freed memory kept by the C library, filling a batch takes half the time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            library.mallopt(setting, _GIGABYTE)
