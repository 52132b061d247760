"""What `mlflow run . -e NAME` starts."""

import ctypes
import os
import sys

# Batches and activations are tens of megabytes. On Linux they come in fresh pages each time unless torch asks for large ones
# (read at its first allocation) and the C library keeps freed ones: filling a batch then takes half the time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # names of malloc.h
    for setting in (MMAP_THRESHOLD, TRIM_THRESHOLD):
        libc.mallopt(setting, 1 << 30)
