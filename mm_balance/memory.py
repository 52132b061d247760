"""How this process gets and keeps its memory."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of the C library's malloc.h."""
_GIGABYTE = 1 << 30


def keep_freed_memory() -> None:
    """Keep freed memory for the next batch, on Linux; elsewhere nothing. To be called before the first tensor.

    Batches and activations are tens of megabytes. They come in fresh pages each time unless torch asks for large ones (which it reads
    at its first allocation) and the C library keeps freed ones: filling a batch then takes half the time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            library.mallopt(setting, _GIGABYTE)
