"""A worker whose training is a formula: everything of a study but the network. Run as a program: NAME STORAGE."""

import os
import sys
import time

from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import Interrupted
from mm_balance.study.handle import find_study
from mm_balance.study.worker import run_worker
from mm_balance.testing import tiny_data

EPOCHS = 3
SECONDS = float(os.environ.get("TRIVIAL_SECONDS", "0"))


def value_of(config):
    return 1.0 - abs(config.gap_mixture.gap_weight - 0.7) / 10 - abs(config.gap_mixture.hard_weight - 1.5) / 10


def train(config, data, run, stop, on_point):
    """Epochs that take ``TRIVIAL_SECONDS``, logged and shown like real ones."""
    run.log_config(config.values())
    for epoch in range(1, EPOCHS + 1):
        for _ in range(10):
            time.sleep(SECONDS / 10)
            if stop():
                raise Interrupted
        metrics = {"val/accuracy": value_of(config) * epoch / EPOCHS, "val/gap_mean_abs": config.gap_mixture.gap_weight}
        point = MetricPoint(epoch, int(time.time() * 1000), metrics)
        run.log_points([point])
        on_point(point)
    return metrics


if __name__ == "__main__":
    name, storage = sys.argv[1:]
    handle = find_study(name, storage)
    print(run_worker(handle, tiny_data(), lambda: False, device="cpu", label="cpu", train=train))
