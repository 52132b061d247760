"""What a stage costs: seconds and memory."""

from __future__ import annotations

import resource
import sys
import time

import torch

RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Stopwatch:
    """Seconds since it was made or last read."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last reading; the next one counts from here."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds


def reset_peak_memory(device: torch.device) -> None:
    """From here on ``peak_memory_bytes`` counts anew, on a GPU: the peak of a stage is not that of the stage before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most bytes in use: by tensors of a GPU since ``reset_peak_memory``; on a CPU by the whole process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
