"""Timing helper of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(action: Callable[[], object], repetitions: int) -> float:
    """Return the median wall time of ``action``; one uncounted call comes first."""
    action()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
