"""Schedules as stateless functions of time. All return Python floats."""

from __future__ import annotations

import math


def anneal(kind: str, fraction: float, start: float, end: float) -> float:
    """Return the annealing coefficient lambda(t) of the adaptive stage.

    The paper (arXiv 2510.21797v1, Sec. 3.3) only says that it decreases; the four shapes are ours.

    Args:
        kind: ``constant`` (= start), ``linear``, ``cosine`` or ``exponential`` (geometric).
        fraction: completed fraction of the stage, in [0, 1].
        start: value at 0.
        end: value at 1.

    Raises:
        ValueError: unknown kind, fraction outside [0, 1], or ``exponential`` with a value that is not positive.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction={fraction} is outside [0, 1]")
    if kind == "constant":
        return float(start)
    if kind == "linear":
        return float(start + (end - start) * fraction)
    if kind == "cosine":
        return float(end + (start - end) * 0.5 * (1 + math.cos(math.pi * fraction)))
    if kind == "exponential":
        if start <= 0 or end <= 0:
            raise ValueError(f"exponential annealing needs positive values, got start={start}, end={end}")
        return float(start * (end / start) ** fraction)
    raise ValueError(f"anneal={kind} is not known; give constant, linear, cosine or exponential")


def learning_rate_factor(
    schedule: str, *, epoch: int, first_epoch: int, stage_epochs: int, hold: int, step: int, decay: float
) -> float:
    """Return the factor on the initial learning rate. All epochs are counted over both stages.

    Args:
        schedule: ``constant``; ``step``: ``decay ** (epoch // step)``; ``cosine``: 1 up to the later of ``first_epoch`` and
            ``hold``, then down to 0 at the end of the stage. So ``cosine`` gives the same rates whether or not the first
            ``hold`` epochs were a separate stage at a constant rate.
        epoch: epochs finished.
        first_epoch: epochs finished before this stage.
        stage_epochs: length of this stage.
        hold: epochs before the rate may decay, at least 0; if they reach the end of the stage, it never decays.
        step: epochs between two decays.
        decay: factor of each decay.

    Raises:
        ValueError: unknown schedule, or ``step`` with less than one epoch between decays.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        if step < 1:
            raise ValueError(f"learning_rate_step={step} must be at least 1")
        return float(decay ** (epoch // step))
    if schedule == "cosine":
        start, end = max(first_epoch, hold), first_epoch + stage_epochs
        fraction = (epoch - start) / (end - start) if start < epoch else 0.0
        return 0.5 * (1 + math.cos(math.pi * fraction))
    raise ValueError(f"learning_rate_schedule={schedule} is not known; give constant, step or cosine")
