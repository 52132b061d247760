"""CPU, memory, disk, network and GPU during training, which MLflow shows on the run's page "System metrics"."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mm_balance.tracking.runs import TrackedRun

for _name in ("mlflow.system_metrics.system_metrics_monitor", "mlflow.system_metrics.metrics.gpu_monitor"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # it announces its start, and what is missing we say ourselves


@contextmanager
def system_metrics(run: TrackedRun, *, wanted: bool) -> Iterator[None]:
    """Log ``system/...`` metrics to ``run`` while the block runs, from a thread of their own, however the block ends.

    A point is the mean over an interval: 10 seconds, or the environment variable ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL``. Its
    step counts points, also over the processes of a resumed run. What cannot be measured is said, and is no error.

    Args:
        run: the run.
        wanted: whether to measure at all.
    """
    if not wanted:
        yield
        return
    try:
        from mm_balance.tracking.system_monitor import SystemMonitor
    except ImportError as error:
        _say(f"nothing is measured: the package {error.name} is missing; install it with: pip install {error.name}")
        yield
        return
    monitor = SystemMonitor(run)
    if torch.cuda.is_available() and not monitor.sees_gpu():
        package = "pyrsmi" if torch.version.hip else "nvidia-ml-py"
        _say(f"the GPU is not measured, the rest is; for the GPU: pip install {package}")
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _say(text: str) -> None:
    print(f"mm-balance: system_metrics=true: {text}", file=sys.stderr)
