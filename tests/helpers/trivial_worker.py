"""A worker whose training is a formula: everything of a study but the network."""

import time
from dataclasses import asdict

from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import Interrupted
from mm_balance.study.handle import find_study
from mm_balance.study.worker import work
from mm_balance.testing import tiny_data
from tests.helpers.stages import never

EPOCHS = 3


def value_of(config):
    return 1.0 - abs(config.gap_weight - 0.7) / 10 - abs(config.hard_weight - 1.5) / 10


def trainer(seconds=0.0):
    """Training that takes ``seconds`` an epoch, logged and shown like real training."""

    def train(config, data, run, stop, watch):
        run.log_config(asdict(config))
        for epoch in range(1, EPOCHS + 1):
            for _ in range(10):
                time.sleep(seconds / 10)
                if stop():
                    raise Interrupted
            metrics = {"val/accuracy": value_of(config) * epoch / EPOCHS, "val/gap_mean_abs": config.gap_weight}
            point = MetricPoint(epoch, int(time.time() * 1000), metrics)
            run.log_points([point])
            watch(point)
        return metrics

    return train


train = trainer()


def work_on(handle, stop=never, train=train):
    """Work for a study in this process; how many trials it ended."""
    return work(handle, tiny_data(), stop, device="cpu", label="cpu", train=train)


def work_alone(name, storage, seconds):
    """Work for a study as a process of its own does."""
    print(work_on(find_study(name, storage), train=trainer(seconds)), flush=True)
