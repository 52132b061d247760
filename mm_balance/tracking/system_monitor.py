"""MLflow's monitor of the machine, with a loop that never holds training up. Importing it needs the package psutil."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from mlflow.exceptions import MlflowException
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import UserError
from mm_balance.tracking.runs import TrackedRun

STOP_SECONDS = 5.0
"""How long the end of training waits for the last point to be sent."""


class SystemMonitor(SystemMetricsMonitor):
    """Measures as MLflow's class does, and writes through ``TrackedRun``.

    MLflow's own loop ends for good at the first request that fails, and its ``finish`` waits for as long as MLflow repeats a
    request, which in an outage is minutes. It also logs nothing of a stage that is shorter than the interval.

    Args:
        run: the run to log to.
    """

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run.run_id, resume_logging=True)
        self._run = run

    def sees_gpu(self) -> bool:
        """Whether a GPU is measured."""
        return any(isinstance(item, GPUMonitor | ROCMMonitor) for item in self.monitors)

    def monitor(self) -> None:
        """Measure and send until ``finish`` is called, and once more then."""
        while not self._shutdown_event.is_set():
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    break
            try:
                self.publish_metrics(self.aggregate_metrics())
            except (MlflowException, UserError, OSError) as error:
                # What was measured stays, and is part of the next mean.
                logging.getLogger(__name__).debug("system metrics were not sent: %s", error)

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        """Send one point."""
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        values = {prefix + name: value for name, value in metrics.items()}
        self._run.log_points([MetricPoint(self._logging_step, int(time.time() * 1000), values)])
        self._logging_step += 1
        for item in self.monitors:
            item.clear_metrics()

    def finish(self) -> None:
        """Stop measuring; return after ``STOP_SECONDS`` at the latest."""
        self._shutdown_event.set()
        if isinstance(self._process, threading.Thread):
            self._process.join(STOP_SECONDS)
