"""Interface between the training loop and whatever stores its state and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mm_balance.types import GapFit


@dataclass
class MetricPoint:
    """Metrics of one step and the time of their measurement.

    Attributes:
        step: epochs finished, over both stages.
        time: Unix time in milliseconds.
        metrics: name -> finite value.
    """

    step: int
    time: int
    metrics: dict[str, float]


OnPoint = Callable[[MetricPoint], None]
"""Called with every published point of a stage, including those of earlier processes of the run."""


def ignore_point(point: MetricPoint) -> None:
    """Do nothing: the default ``OnPoint``."""


class Recorder(Protocol):
    """Stores the loop's output. The loop saves before it publishes, so a saved state covers everything published."""

    def save(self, state: dict[str, Any]) -> None:
        """Save the state after an epoch, or within one after an interruption."""

    def save_best(self, state: dict[str, Any]) -> None:
        """Save the weights of the best validation epoch so far."""

    def publish(self, point: MetricPoint, refit: GapFit | None = None, validation: GapFit | None = None) -> None:
        """Publish a point, and the refit made at it, if any, with that of the validation samples."""


@dataclass
class ListRecorder:
    """Keeps everything in memory, for tests and for use without a tracking server."""

    points: list[MetricPoint] = field(default_factory=list)
    refits: list[GapFit] = field(default_factory=list)
    validation_refits: list[GapFit] = field(default_factory=list)
    state: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    def save(self, state: dict[str, Any]) -> None:
        self.state = state

    def save_best(self, state: dict[str, Any]) -> None:
        self.best = state

    def publish(self, point: MetricPoint, refit: GapFit | None = None, validation: GapFit | None = None) -> None:
        self.points.append(point)
        if refit is not None:
            self.refits.append(refit)
        if validation is not None:
            self.validation_refits.append(validation)
