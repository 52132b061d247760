"""CML: confidence must not rise when a modality is taken away.

Source: Ma et al., Calibrating Multimodal Learning, ICML 2023, arXiv 2306.01265; QingyangZhang/CML@9d2496e has the regulariser for
other networks; its use with a concatenating classifier is BalanceBenchmark@4c1482f's. Deviations: the hinge is per sample
(BalanceBenchmark: of the batch's sum, where samples cancel), its mean over the batch; the order of modalities is drawn at every
step. Logits of a part of the modalities are the head's with the other features zero, which keeps the whole bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class CmlOptions:
    """See the fields' help."""

    calibration: float = option(0.1, "lambda, weight of the hinge", minimum=0.0, source="BalanceBenchmark@4c1482f",
                                search=(0.01, 10.0, "log"))  # fmt: skip
    mask: str = option(
        "all",
        "samples that count: all, or not those right with less and wrong with more (`cpm`)",
        choices=("all", "cpm"),
    )


class Cml(Method):
    """Calibrated confidences."""

    name = "cml"
    title = "CML"
    citation = "Ma et al., ICML 2023, arXiv 2306.01265; QingyangZhang/CML@9d2496e, BalanceBenchmark@4c1482f"
    Options = CmlOptions

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        order = [self.modalities[place] for place in torch.randperm(len(self.modalities)).tolist()]
        nested = [output.fused]
        for taken in range(1, len(order)):
            left = order[taken:]
            shown = {
                name: value if name in left else torch.zeros_like(value) for name, value in output.features.items()
            }
            nested.append(model.fuse(shown).fused)
        losses = torch.stack([cross_entropy(logits, batch.labels) for logits in nested])
        steps = [
            confidence_rise(more.float(), less.float(), batch.labels, self.options.mask)
            for more, less in pairwise(nested)
        ]
        hinge = torch.stack([step.mean() for step in steps]).sum()
        return loss_output(output, fusion=losses.mean(), calibration=self.options.calibration * hinge)


def confidence_rise(more: Tensor, less: Tensor, labels: Tensor, mask: str) -> Tensor:
    """``max(0, conf(less) - conf(more))`` of each sample, conf = largest probability; logits ``(batch, classes)``."""
    rise = (less.softmax(dim=1).amax(dim=1) - more.softmax(dim=1).amax(dim=1)).relu()
    return rise * counted(more.argmax(dim=1) == labels, less.argmax(dim=1) == labels, mask)


def counted(more_right: Tensor, less_right: Tensor, mask: str) -> Tensor:
    """1 where a sample counts, ``(batch,)``; under ``cpm`` not where less is right and more is wrong."""
    return torch.ones_like(more_right, dtype=torch.float32) if mask == "all" else (more_right | ~less_right).float()
