"""A worker whose training is a formula: everything of a study but the network."""

import time

from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import Interrupted
from mm_balance.study.handle import find_study
from mm_balance.study.worker import run_worker
from mm_balance.testing import tiny_data
from tests.helpers.stages import never

EPOCHS = 3


def value_of(config):
    return 1.0 - abs(config.gap_mixture.gap_weight - 0.7) / 10 - abs(config.gap_mixture.hard_weight - 1.5) / 10


def trainer(seconds=0.0):
    """Training that takes ``seconds`` an epoch, logged and shown like real training."""

    def train(config, data, run, stop, on_point):
        run.log_config(config.values())
        for epoch in range(1, EPOCHS + 1):
            for _ in range(10):
                time.sleep(seconds / 10)
                if stop():
                    raise Interrupted
            metrics = {
                "val/accuracy": value_of(config) * epoch / EPOCHS,
                "val/gap_mean_abs": config.gap_mixture.gap_weight,
            }
            point = MetricPoint(epoch, int(time.time() * 1000), metrics)
            run.log_points([point])
            on_point(point)
        return metrics

    return train


train = trainer()


def work_on(handle, stop=never, train=train):
    """Work for a study in this process; how many trials it ended."""
    return run_worker(handle, tiny_data(), stop, device="cpu", label="cpu", train=train)


def work_alone(name, storage, seconds):
    """Work for a study as a process of its own does."""
    print(work_on(find_study(name, storage), train=trainer(seconds)), flush=True)
