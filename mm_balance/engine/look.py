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
from mm_balance.types import Batch, Refit, Survey

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
        new_stepper: network -> a fresh optimiser at the rate of the coming epoch.
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
                for batch in loader.epoch(COPY_EPOCHS + epoch, self.device):
                    stepper.zero_grad()
                    with stepper.autocast():
                        value = loss(network, batch)
                    stepper.backward(value)
                    stepper.step()
                    if self.stop_requested():
                        raise Interrupted
        return replace(self, model=network, refit=None)


@contextmanager
def _same_random_numbers_after() -> Iterator[None]:
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
