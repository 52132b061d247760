"""What the loop tells the outside world, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mm_balance.types import GapFit


@dataclass
class MetricPoint:
    """Metrics of one step, with the time they were measured at.

    Attributes:
        step: epochs finished, over both stages.
        time: milliseconds since 1970.
        metrics: name -> finite value.
    """

    step: int
    time: int
    metrics: dict[str, float]


OnPoint = Callable[[MetricPoint], None]
"""Called with every point of a stage once it is published, those of earlier processes of the run too."""


def ignore_point(point: MetricPoint) -> None:
    """The default of ``OnPoint``: does nothing."""


class Recorder(Protocol):
    """The loop first saves, then publishes: what was published can always be told from a saved state."""

    def save(self, state: dict[str, Any]) -> None:
        """Persist the state after an epoch (or in the middle of one, when interrupted)."""

    def save_best(self, state: dict[str, Any]) -> None:
        """Persist the weights of the best validation epoch so far."""

    def publish(self, point: MetricPoint, refit: GapFit | None) -> None:
        """Show a point, and the refit it belongs to, if any."""


@dataclass
class ListRecorder:
    """Keeps everything in memory: for tests and for use without a tracking server."""

    points: list[MetricPoint] = field(default_factory=list)
    refits: list[GapFit] = field(default_factory=list)
    state: dict[str, Any] | None = None
    best: dict[str, Any] | None = None

    def save(self, state: dict[str, Any]) -> None:
        self.state = state

    def save_best(self, state: dict[str, Any]) -> None:
        self.best = state

    def publish(self, point: MetricPoint, refit: GapFit | None) -> None:
        self.points.append(point)
        if refit is not None:
            self.refits.append(refit)
