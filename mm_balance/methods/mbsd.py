"""MBSD: per sample, the better modality teaches the other; the larger its lead, the stronger the distillation.

Source: cited as Liu et al. 2023; **neither the paper nor official code was found**: this follows BalanceBenchmark@4c1482f's MBSD
(MBSD_trainer.py). Deviations: a true divergence between predictions, where that code passes two scalars to a library function and
gets a negative number (``divergence=scalars`` reproduces it); weight and teacher are constants; with more than two modalities, the
mean over pairs.
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
    """Options of MBSD."""

    strength: float = option(1.0, "weight of the mutual distillation", minimum=0.0, source="BalanceBenchmark@4c1482f",
                             search=(0.1, 10.0, "log"))  # fmt: skip
    divergence: str = option(
        "classes", "KL over classes, or BalanceBenchmark's expression in two scalars", choices=("classes", "scalars")
    )


class Mbsd(Method):
    """Mutual distillation weighted by the gap."""

    name = "mbsd"
    title = "MBSD"
    citation = "BalanceBenchmark@4c1482f (the paper was not found)"
    Options = MbsdOptions

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        losses = {f"unimodal_{name}": cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        losses_of_pairs = [
            pair_distillation(first.float(), second.float(), batch.labels, self.options.divergence).mean()
            for first, second in combinations(output.unimodal.values(), 2)
        ]
        distillation = self.options.strength * torch.stack(losses_of_pairs).mean()
        return loss_output(
            output, fusion=cross_entropy(output.fused, batch.labels), distillation=distillation, **losses
        )


def pair_distillation(first: Tensor, second: Tensor, labels: Tensor, divergence: str) -> Tensor:
    """``w (RS + KL)`` per sample, ``(batch,)``.

    w: absolute difference of the true-class probabilities, 0 where neither modality is correct; a constant. RS: mean squared
    difference of the logits. KL: of the weaker prediction from the stronger one, which is a constant.

    Args:
        first: ``(batch, classes)`` logits.
        second: likewise.
        labels: ``(batch,)``.
        divergence: ``classes`` or ``scalars`` (w (log w - s) with w and s the smaller and larger true-class probability).
    """
    probabilities = torch.stack([true_class_probability(value, labels) for value in (first, second)])
    correct = (first.argmax(dim=1) == labels) | (second.argmax(dim=1) == labels)
    weight = ((probabilities[0] - probabilities[1]).abs() * correct).detach()
    distance = (first - second).square().mean(dim=1)
    if divergence == "scalars":
        lower, higher = probabilities.amin(dim=0), probabilities.amax(dim=0)
        # log(0) is undefined, but its factor is 0 there.
        return weight * (distance + lower * (lower.clamp_min(torch.finfo(lower.dtype).tiny).log() - higher))
    first_leads = (probabilities[0] >= probabilities[1]).unsqueeze(1)
    leader = torch.where(first_leads, first, second).log_softmax(dim=1).detach()
    learner = torch.where(first_leads, second, first).log_softmax(dim=1)
    return weight * (distance + (leader.exp() * (leader - learner)).sum(dim=1))
