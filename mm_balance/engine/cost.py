"""Time and memory used by a stage."""

from __future__ import annotations

import resource
import sys
import time

import torch

RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Stopwatch:
    """Measures seconds since its creation or last lap."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap and start the next one."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds


def reset_peak_memory(device: torch.device) -> None:
    """Reset ``peak_memory_bytes`` on a GPU, so that each stage has its own peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory: of GPU tensors since ``reset_peak_memory``; on a CPU, of the process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
