"""What the engine lets a method learn between two epochs: surveys, and copies of the network that are trained and thrown away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.engine.step import Stepper
from mm_balance.engine.survey import survey
from mm_balance.errors import Interrupted
from mm_balance.methods import Method
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import random_state, restore_random_state
from mm_balance.types import Batch, Clock, Refit, Survey

COPY_EPOCHS = 1_000_000
"""Epochs of copies are numbered from here, so that they see the samples in another order than training does."""


@dataclass
class EngineLook:
    """``mm_balance.methods.base.Look`` on a stage.

    Attributes:
        model: the network, or a copy of it.
        refit: the latest one.
        method: whose predictions are surveyed.
        data: training data are read, and the held-out part of it; nothing else.
        device: where the network is.
        batch_size: of copies.
        seed: of the order in which copies see the samples.
        new_stepper: network -> a fresh optimiser.
        learning_rate: the stage's rate at a time.
        clock: the time of the look.
        stop_requested: asked after every batch of a copy.
    """

    model: MultimodalNetwork
    refit: Refit | None
    method: Method
    data: MultimodalData
    device: torch.device
    batch_size: int
    seed: int
    new_stepper: Callable[[nn.Module], Stepper]
    learning_rate: Callable[[Clock], float]
    clock: Clock
    stop_requested: Callable[[], bool]

    def survey(self, part: str = "train") -> Survey:
        """See ``Look.survey``."""
        if part not in ("train", "held_out"):
            raise ValueError(f"a method may survey train or held_out, not {part}")
        return survey(self.model, self.method, self.data.splits[part], self.device, features=True)

    def trained_copy(
        self, loss: Callable[[MultimodalNetwork, Batch], Tensor], epochs: int, *, fresh: bool = False
    ) -> EngineLook:
        """See ``Look.trained_copy``.

        Raises:
            Interrupted: a stop was requested. The copy is lost; the stage's state is that of the last checkpoint.
        """
        with _same_random_numbers_after():
            network = copy.deepcopy(self.model)
            if fresh:
                description = self.model.describe()
                network.load_state_dict(MultimodalNetwork.from_description(description).state_dict())
            stepper = self.new_stepper(network)
            loader = BatchLoader(self.data.splits["train"], self.batch_size, seed=self.seed)
            network.train()
            for epoch in range(epochs):
                stepper.set_learning_rate(self.learning_rate(_clock_of_copy(self.clock, epoch, epochs, fresh=fresh)))
                for batch in loader.epoch(COPY_EPOCHS + epoch, self.device):
                    stepper.zero_grad()
                    with stepper.autocast():
                        value = loss(network, batch)
                    stepper.backward(value)
                    stepper.step()
                    if self.stop_requested():
                        raise Interrupted
        return replace(self, model=network, refit=None)


def _clock_of_copy(clock: Clock, epoch: int, epochs: int, *, fresh: bool) -> Clock:
    """The time in a stage that belongs to ``epoch`` (from 0) of a copy, see ``Look.trained_copy``."""
    if fresh:
        return Clock(epoch, epoch, epochs)
    ahead = min(epoch, clock.stage_epochs - 1 - clock.stage_epoch)
    return Clock(clock.epoch + ahead, clock.stage_epoch + ahead, clock.stage_epochs)


@contextmanager
def _same_random_numbers_after() -> Iterator[None]:
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
