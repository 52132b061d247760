"""LFM: shift from aligning the modalities' predictions to classification, along a fixed schedule.

Source: Yang et al., Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS 2024;
njustkmg/NeurIPS24-LFM@ad44fa0, Crema_epoch.py. One classifier per modality; fused logits are their mean. Deviations: the schedule is
a polynomial over 200 epochs, evaluated here at the same fraction of the stage (``stretch=false``: at the epoch number itself). The
paper's learned schedule (second derivatives; a weight updated from the first parameter tensor alone) is **not** implemented. As in
the code, class distributions are aligned and there is no contrastive term; more than two modalities: the mean over pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import HeadSpec, LateFusion, MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput

COEFFICIENTS = (2.04623704e-1, 3.35472727e-3, 1.22989557e-4, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11)
SCHEDULE_EPOCHS = 200


@dataclass(frozen=True)
class LfmOptions:
    """Options of LFM."""

    stretch: bool = option(True, "stretch the schedule's 200 epochs over the stage", search=(True, False))
    divergence: str = option(
        "reversed", "divergence between predictions: the code's (swapped arguments), or Jensen-Shannon",
        choices=("reversed", "true"), source="NeurIPS24-LFM@ad44fa0", search=("reversed", "true"),
    )  # fmt: skip


class Lfm(Method):
    """Learning the modality gap dynamically, fitted schedule."""

    name = "lfm"
    title = "LFM (fitted schedule)"
    citation = "Yang et al., NeurIPS 2024; njustkmg/NeurIPS24-LFM@ad44fa0"
    Options = LfmOptions
    fusions = ("concat",)

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(LateFusion, {"mean_of": "logits"})

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        share = classification_share(self._epoch(clock))
        pairs = [
            alignment(first.float(), second.float(), self.options.divergence)
            for first, second in combinations(output.unimodal.values(), 2)
        ]
        fused = cross_entropy(output.fused, batch.labels)
        return loss_output(output, fusion=2 * share * fused, alignment=2 * (1 - share) * torch.stack(pairs).mean())

    def _epoch(self, clock: Clock) -> float:
        return clock.fraction * SCHEDULE_EPOCHS if self.options.stretch else float(clock.stage_epoch)


def classification_share(epoch: float) -> float:
    """a(e), the classification weight after ``epoch`` of 200 epochs, clipped to [0, 1]."""
    return min(max(sum(value * epoch**power for power, value in enumerate(COEFFICIENTS)), 0.0), 1.0)


def alignment(first: Tensor, second: Tensor, divergence: str) -> Tensor:
    """Divergence between two predictions, averaged over the batch.

    Args:
        first: ``(batch, classes)`` logits.
        second: likewise.
        divergence: ``true`` = Jensen-Shannon, half of KL(p || m) + KL(q || m), m their mean; ``reversed`` = half of
            KL(m || p) + KL(m || q).
    """
    # Stay in log space: a class that both rule out has probability 0, whose logarithm has no derivative.
    logarithms = torch.stack([value.log_softmax(dim=1) for value in (first, second)])
    middle = logarithms.logsumexp(dim=0) - math.log(2)
    pairs = [(value, middle) if divergence == "reversed" else (middle, value) for value in logarithms]
    parts = [functional.kl_div(one, other, reduction="batchmean", log_target=True) for one, other in pairs]
    return torch.stack(parts).mean()
