"""How long a plan takes: from runs of the same settings where there are some, else from a few measured training steps.

An estimate: it knows encoder passes, not what else a method computes, nor what other programs do to the machine. It is corrected by
the runs that are finished.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from mm_balance.config import Config
from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.engine.gap_sources import FOLDS
from mm_balance.methods import METHODS
from mm_balance.reproduction.plan import Job
from mm_balance.types import Clock
from mm_balance.workflow.build import build_stage
from mm_balance.workflow.plans import train_plan

MEASURING_SECONDS = 2.0
LEAST_STEPS = 2
FORWARD_SHARE = 1 / 3
"""Of a training step, which is one forward and one backward pass, the latter twice as long."""
OVERHEAD_SECONDS = 6.0
"""Per run, beside training: figures, the model, the test. Measured on one CPU core."""
RELATIVE_COSTS = {
    "g_blending": 3.5, "umt": 2.3, "sample_valuation": 1.4, "purified": 0.8, "reconboost": 0.8,
}  # fmt: skip
"""`cost/relative` of methods whose declared cost leaves something out, as measured on `digits` (docs/results)."""


@dataclass(frozen=True)
class Speed:
    """What was measured of a preset.

    Attributes:
        step_seconds: one training step of joint training.
        device: where.
        train: training samples with ``train_fraction=1``.
        val: validation samples.
    """

    step_seconds: float
    device: str
    train: float
    val: int


def measure(config: Config, data: MultimodalData) -> Speed:
    """Time a few training steps of joint training.

    Args:
        config: the preset's configuration.
        data: its data.

    Raises:
        UserError: this machine lacks the device.
    """
    stage = build_stage(train_plan(config.replace(method="concat", method_options=None)), data, title="measuring")
    loader = BatchLoader(data.splits["train"], stage.batch_size, seed=0)
    clock, times = Clock(0, 0, 1), list[float]()
    stage.model.train()
    for batch in loader.epoch(0, stage.device):
        started = time.perf_counter()
        stage.method.update(stage.model, batch, stage.optimizer_step, clock)
        if stage.device.type == "cuda":
            torch.cuda.synchronize(stage.device)
        times.append(time.perf_counter() - started)
        if len(times) > LEAST_STEPS and sum(times) > MEASURING_SECONDS:
            break
    after_first = sorted(times[1:] or times)  # the first one allocates
    return Speed(
        after_first[len(after_first) // 2],
        str(stage.device),
        len(data.splits["train"]) / config.data.train_fraction,
        len(data.splits["val"]),
    )


def relative_cost(job: Job) -> float:
    """Return the encoder work of the job's method per step, relative to joint training."""
    plan = job.plan
    if plan.method in RELATIVE_COSTS:
        return RELATIVE_COSTS[plan.method]
    modalities = tuple(job.config.data.modalities.split(","))
    cost = METHODS[plan.method](plan.options, modalities, 0).cost()
    return (cost.forward + cost.refresh + 2 * cost.backward) / 3


def work(job: Job, train: float, val: int) -> float:
    """Return the work of a job in training steps of joint training.

    Args:
        job: the job.
        train: training samples with ``train_fraction=1``.
        val: validation samples.
    """
    plan, config = job.plan, job.config
    batch = config.optimization.batch_size
    steps = math.ceil(train * config.data.train_fraction / batch)
    every = plan.refit_every or plan.epochs
    refits = [*range(every, plan.epochs, every), plan.epochs]
    total = plan.epochs * (steps * relative_cost(job) + FORWARD_SHARE * val / batch)
    total += len(refits) * FORWARD_SHARE * steps
    if plan.gap_source == "cross_fitted":
        first = config.warmup.warmup_epochs if job.after_warmup else 0
        copies = sum(first + epoch for epoch in ([0, *refits] if job.after_warmup else refits))
        total += (FOLDS - 1) * copies * steps
    return total


@dataclass
class Estimate:
    """Seconds of jobs, corrected by those that were timed.

    Args:
        speed: what was measured.
        timed: seconds of earlier runs, by the settings of their jobs.
    """

    speed: Speed
    timed: Mapping[tuple[tuple[str, str], ...], float] = field(default_factory=dict)
    taken: float = 0.0
    expected: float = 0.0

    def of(self, job: Job) -> float:
        """Return the seconds that a job takes."""
        known = None if job.is_warmup else self.timed.get(settings_key(job))
        return self._computed(job) * self.correction if known is None else known

    def learn(self, job: Job, seconds: float) -> None:
        """Take note that a job took so long."""
        self.taken += seconds
        self.expected += self._computed(job)

    @property
    def correction(self) -> float:
        """How much longer jobs took than was computed; 1 if none was timed."""
        return self.taken / self.expected if self.expected else 1.0

    def seconds_of(self, jobs: Iterable[Job], workers: int) -> float:
        """Return the seconds that jobs take, with so many processes at a time."""
        left = [self.of(job) for job in jobs]
        return max(sum(left) / workers, max(left, default=0.0))

    def _computed(self, job: Job) -> float:
        return OVERHEAD_SECONDS + self.speed.step_seconds * work(job, self.speed.train, self.speed.val)


def settings_key(job: Job) -> tuple[tuple[str, str], ...]:
    """Return the job's settings without its seed, as a key."""
    return tuple(sorted(job.settings.items()))
