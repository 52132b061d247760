"""Series over warm-up and second stage on their parent run, where one chart shows both; MLflow draws none across runs."""

from __future__ import annotations

from collections.abc import Iterable

from mm_balance import names
from mm_balance.engine.recorder import MetricPoint
from mm_balance.tracking.runs import TrackedRun


class BothStages:
    """Copies accuracies and gaps of the nested stages to their parent run, each step once.

    Points cannot be deleted from MLflow. If a second stage replaces an older one, the parent keeps the older points.

    Args:
        parent: the run to copy to; its points are read once, so that nothing is sent twice after a resume.

    Attributes:
        mixed: whether a point of the parent has another value than the one to copy: it is that of a replaced stage.
    """

    def __init__(self, parent: TrackedRun) -> None:
        self.parent = parent
        self.mixed = False
        present = [name for name in parent.read().data.metrics if name.startswith(names.BOTH_STAGES_PREFIX)]
        self._sent = {(name, step): value for name in present for step, value in parent.metric_series(name)}

    def copy(self, points: Iterable[MetricPoint]) -> None:
        """Send what the parent lacks of ``points``, in order."""
        fresh = [MetricPoint(point.step, point.time, self._fresh(point)) for point in points]
        self.parent.log_points(point for point in fresh if point.metrics)

    def __call__(self, point: MetricPoint) -> None:
        """Copy one point as soon as it is published (``OnPoint``)."""
        self.copy([point])

    def _fresh(self, point: MetricPoint) -> dict[str, float]:
        values = {}
        for name, value in point.metrics.items():
            copied = names.both_stages(name)
            if copied is None:
                continue
            if (copied, point.step) not in self._sent:
                self._sent[copied, point.step] = values[copied] = value
            elif self._sent[copied, point.step] != value:
                self.mixed = True
        return values
