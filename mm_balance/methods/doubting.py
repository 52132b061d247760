"""What `posterior_discount` and `loss_mixture` share: doubts from what training saw, renewed every epoch, and discounted losses.

    L = mean_i { (1 - max_m q_m,i) L_f,i + w sum_m (1 - q_m,i) L_m,i }

with q_m,i in [0, 1] the doubt about modality m of sample i: the smallest of the latest ``persistence`` epochs, each computed from
running means of the true-class probabilities that training saw anyway (no extra pass). Before ``start_epoch``, and until there are
enough epochs, nothing is doubted: the loss is that of ``concat_unimodal``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mm_balance.functional.discount import UNSEEN, discounted_losses, running_mean
from mm_balance.functional.gap import true_class_probability
from mm_balance.methods.base import Inspector, Method, loss_output
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, EpochPlan, LossOutput


class DoubtingMethod(Method):
    """A method whose losses count less, the more it doubts a modality of the sample. Subclasses say how doubts arise.

    Their options have ``unimodal_weight`` (w), ``start_epoch``, ``persistence``, ``decay`` (of the running means) and ``discounted``
    (see ``discounted_losses``).
    """

    several_classes = True

    latest: Tensor
    running: Tensor
    history: Tensor

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        shape = (len(self.modalities), train_samples)
        self.register_buffer("latest", torch.full(shape, UNSEEN, dtype=torch.float64))
        self.register_buffer("running", torch.full(shape, UNSEEN, dtype=torch.float64))
        # Newest first. Zeros until filled, so that nothing is doubted before `persistence` epochs have passed.
        self.register_buffer("history", torch.zeros(options.persistence, *shape))

    def doubts_of(self, probabilities: Tensor) -> Tensor:
        """Return the doubts, ``(modalities, samples)`` float32 in [0, 1], from running true-class probabilities of that shape.

        ``UNSEEN`` stands for samples that training never saw, which are not doubted.
        """
        raise NotImplementedError

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if (self.latest < 0).all():
            return EpochPlan()
        self.running.copy_(running_mean(self.running, self.latest, self.options.decay))
        self.latest.fill_(UNSEEN)
        self.history.copy_(torch.cat([self.doubts_of(self.running).unsqueeze(0), self.history[:-1]]))
        means = self._doubts(torch.arange(self.train_samples, device=self.history.device), clock).mean(dim=1).tolist()
        return EpochPlan(
            notes={f"method/doubt_{name}": mean for name, mean in zip(self.modalities, means, strict=True)}
        )

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        unimodal = {name: output.unimodal[name] for name in self.modalities}
        fused_loss, unimodal_loss = discounted_losses(
            output.fused, unimodal, batch.labels, self._discounts(batch.index, clock),
            unimodal_weight=self.options.unimodal_weight, discounted=self.options.discounted,
        )  # fmt: skip
        return loss_output(output, fusion=fused_loss, unimodal=unimodal_loss)

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        for row, name in enumerate(self.modalities):
            logits = loss_output.output.unimodal[name].detach().double()
            self.latest[row, batch.index] = true_class_probability(logits, batch.labels)

    def _discounts(self, index: Tensor, clock: Clock) -> Tensor:
        """Return how much of the losses of the samples at ``index`` is taken away, ``(modalities, len(index))`` in [0, 1]."""
        return self._doubts(index, clock)

    def doubts(self) -> dict[str, Tensor]:
        everything = self._doubts_at(torch.arange(self.train_samples, device=self.history.device))
        return dict(zip(self.modalities, everything, strict=True))

    def _doubts_at(self, index: Tensor) -> Tensor:
        return self.history[:, :, index].amin(dim=0)

    def _doubts(self, index: Tensor, clock: Clock) -> Tensor:
        """Return the doubts about the samples at ``index`` in this epoch, ``(modalities, len(index))``."""
        doubts = self._doubts_at(index)
        return doubts if clock.stage_epoch >= self.options.start_epoch else torch.zeros_like(doubts)
