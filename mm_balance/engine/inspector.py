"""The engine's ``Inspector``: lets a method predict splits and train temporary copies of the network between epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.engine.not_finite import first_not_finite
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.step import EngineOptimizerStep
from mm_balance.errors import Diverged, Interrupted
from mm_balance.functional.folds import stratified_folds
from mm_balance.functional.labels import strata
from mm_balance.methods import Method
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import random_state, restore_random_state
from mm_balance.types import Batch, Clock, GapFit, SplitPredictions

COPY_EPOCHS = 1_000_000
"""First epoch number of copies, so that their sample order differs from that of training."""


@dataclass
class EngineInspector:
    """Implementation of ``mm_balance.methods.base.Inspector`` for a stage.

    Attributes:
        model: the network, or a copy of it.
        gap_fit: the latest gap fit.
        method: method that makes the predictions.
        data: only the training split and its held-out part are read.
        device: device of the network.
        batch_size: batch size for copies.
        seed: seed of the sample order for copies.
        new_optimizer_step: network -> a fresh optimizer.
        learning_rate: the stage's schedule, clock -> learning rate.
        clock: current time.
        stop_requested: polled after every batch of a copy.
    """

    model: MultimodalNetwork
    gap_fit: GapFit | None
    method: Method
    data: MultimodalData
    device: torch.device
    batch_size: int
    seed: int
    new_optimizer_step: Callable[[MultimodalNetwork], EngineOptimizerStep]
    learning_rate: Callable[[Clock], float]
    clock: Clock
    stop_requested: Callable[[], bool]

    def predict_split(self, part: str = "train") -> SplitPredictions:
        """Predict ``train`` or ``held_out`` in eval mode; features are included. Raises ValueError for any other split."""
        if part not in ("train", "held_out"):
            raise ValueError(f"a method may only inspect train or held_out, not {part}")
        return predict_split(self.model, self.method, self.data.splits[part], self.device, features=True)

    def train_copy(
        self,
        loss: Callable[[MultimodalNetwork, Batch], Tensor],
        epochs: int,
        *,
        fresh: bool = False,
        samples: Tensor | None = None,
    ) -> EngineInspector:
        """Train a copy of the network with ``loss`` alone and return an inspector of it (see ``Inspector.train_copy``).

        Raises:
            Interrupted: a stop was requested. The copy is discarded; the stage's state is that of the last checkpoint.
            Diverged: a weight of the copy is no longer finite.
        """
        with _preserved_random_state():
            network = copy.deepcopy(self.model)
            if fresh:
                network.load_state_dict(self.model.fresh().state_dict())
            optimizer_step = self.new_optimizer_step(network)
            loader = BatchLoader(self.data.splits["train"], self.batch_size, seed=self.seed)
            network.train()
            for epoch in range(epochs):
                optimizer_step.set_learning_rate(
                    self.learning_rate(_clock_of_copy(self.clock, epoch, epochs, fresh=fresh))
                )
                for batch in loader.epoch(COPY_EPOCHS + epoch, self.device, samples=samples):
                    optimizer_step.zero_grad()
                    with optimizer_step.autocast():
                        value = loss(network, batch)
                    optimizer_step.backward(value)
                    optimizer_step.step()
                    if self.stop_requested():
                        raise Interrupted
        if (broken := first_not_finite(network)) is not None:
            raise Diverged(
                f"a copy of the network that {self.method.name} trains is no longer finite after {epochs} epochs ({broken}): lower "
                "learning_rate; the last good state is in the checkpoint"
            )
        return replace(self, model=network, gap_fit=None)

    def cross_predict(
        self, loss: Callable[[MultimodalNetwork, Batch], Tensor], epochs: int, *, folds: int = 4
    ) -> SplitPredictions:
        """Predict every training sample by a copy that never trained on it (see ``Inspector.cross_predict``).

        Raises:
            ValueError: fewer than two folds, or more than training samples.
            Interrupted: a stop was requested. The copies are discarded; the stage's state is that of the last checkpoint.
        """
        train = self.data.splits["train"]
        assigned = stratified_folds(strata(train.labels), folds, seed=self.seed)
        chosen, parts = [], []
        for fold in range(folds):
            others = (assigned != fold).nonzero().squeeze(1)
            chosen.append((assigned == fold).nonzero().squeeze(1))
            trained = self.train_copy(loss, epochs, fresh=True, samples=others)
            parts.append(predict_split(trained.model, self.method, train.subset(chosen[-1]), self.device))
        place = torch.cat(chosen).argsort()
        return SplitPredictions(
            labels=train.labels,
            fused=torch.cat([part.fused for part in parts])[place],
            unimodal={
                name: torch.cat([part.unimodal[name] for part in parts])[place] for name in self.model.modalities
            },
            samples_digest=train.samples_digest,
        )


def _clock_of_copy(clock: Clock, epoch: int, epochs: int, *, fresh: bool) -> Clock:
    """Map ``epoch`` (from 0) of a copy to the clock that its learning rate follows, see ``Inspector.train_copy``."""
    if fresh:
        return Clock(epoch, epoch, epochs)
    ahead = min(epoch, clock.stage_epochs - 1 - clock.stage_epoch)
    return Clock(clock.epoch + ahead, clock.stage_epoch + ahead, clock.stage_epochs)


@contextmanager
def _preserved_random_state() -> Iterator[None]:
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
