"""MBSD: per sample, the modality that knows the class better teaches the other, the more the further it is ahead.

Source: cited as Liu et al. 2023; **neither the paper nor official code was found**: this is BalanceBenchmark@4c1482f's MBSD
(MBSD_trainer.py). Deviations: a true divergence between the predictions, where that code passes two scalars to a library's function
and gets a negative number (``divergence=scalars`` does the same); weight and teacher are constants; with more than two modalities,
the mean over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from mm_balance.functional.gap import true_class_probability
from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class MbsdOptions:
    """See the fields' help."""

    strength: float = option(1.0, "weight of the mutual teaching", minimum=0.0, source="BalanceBenchmark@4c1482f",
                             search=(0.1, 10.0, "log"))  # fmt: skip
    divergence: str = option(
        "classes", "KL over classes, or BalanceBenchmark's expression in two scalars", choices=("classes", "scalars")
    )


class Mbsd(Method):
    """Mutual distillation by the gap."""

    name = "mbsd"
    title = "MBSD"
    citation = "BalanceBenchmark@4c1482f (the paper was not found)"
    Options = MbsdOptions

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        losses = {f"unimodal_{name}": cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        taught = [
            pair_distillation(first.float(), second.float(), batch.labels, self.options.divergence).mean()
            for first, second in combinations(output.unimodal.values(), 2)
        ]
        distillation = self.options.strength * torch.stack(taught).mean()
        return loss_output(
            output, fusion=cross_entropy(output.fused, batch.labels), distillation=distillation, **losses
        )


def pair_distillation(first: Tensor, second: Tensor, labels: Tensor, divergence: str) -> Tensor:
    """``w (RS + KL)`` of each sample, ``(batch,)``.

    w: difference of the true-class probabilities, 0 where neither modality is right, a constant. RS: mean squared difference of
    the logits. KL: of the weaker prediction from the stronger one, which is a constant.

    Args:
        first: ``(batch, classes)`` logits.
        second: likewise.
        labels: ``(batch,)``.
        divergence: ``classes`` or ``scalars`` (w (log w - s) with w and s the smaller and larger true-class probability).
    """
    known = torch.stack([true_class_probability(value, labels) for value in (first, second)])
    right = (first.argmax(dim=1) == labels) | (second.argmax(dim=1) == labels)
    weight = ((known[0] - known[1]).abs() * right).detach()
    distance = (first - second).square().mean(dim=1)
    if divergence == "scalars":
        lower, higher = known.amin(dim=0), known.amax(dim=0)
        # The logarithm of probability 0 has no value; its factor is 0 there.
        return weight * (distance + lower * (lower.clamp_min(torch.finfo(lower.dtype).tiny).log() - higher))
    first_leads = (known[0] >= known[1]).unsqueeze(1)
    leader = torch.where(first_leads, first, second).log_softmax(dim=1).detach()
    learner = torch.where(first_leads, second, first).log_softmax(dim=1)
    return weight * (distance + (leader.exp() * (leader - learner)).sum(dim=1))
