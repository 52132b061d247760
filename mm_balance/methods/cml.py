"""CML: penalize confidence that rises when a modality is removed.

Source: Ma et al., Calibrating Multimodal Learning, ICML 2023, arXiv 2306.01265; QingyangZhang/CML@9d2496e has the regularizer for
other networks; BalanceBenchmark@4c1482f applies it to a concatenation classifier. Deviations: the hinge is per sample, averaged over
the batch (BalanceBenchmark: of the batch sum, in which samples cancel); the order of modalities is drawn at every step. Logits of a
subset of the modalities are the head's with all other features set to zero, so they include the full bias.
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
    """Options of CML."""

    calibration: float = option(0.1, "lambda, weight of the hinge", minimum=0.0, source="BalanceBenchmark@4c1482f",
                                search=(0.01, 10.0, "log"))  # fmt: skip
    mask: str = option(
        "all",
        "samples that count: all, or all but those correct with fewer and wrong with more modalities (`cpm`)",
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
        order = [self.modalities[index] for index in torch.randperm(len(self.modalities)).tolist()]
        nested = [output.fused]
        for removed in range(1, len(order)):
            kept = order[removed:]
            features = {
                name: value if name in kept else torch.zeros_like(value) for name, value in output.features.items()
            }
            nested.append(model.fuse(features).fused)
        losses = torch.stack([cross_entropy(logits, batch.labels) for logits in nested])
        rises = [
            confidence_rise(more.float(), less.float(), batch.labels, self.options.mask)
            for more, less in pairwise(nested)
        ]
        hinge = torch.stack([rise.mean() for rise in rises]).sum()
        return loss_output(output, fusion=losses.mean(), calibration=self.options.calibration * hinge)


def confidence_rise(more: Tensor, less: Tensor, labels: Tensor, mask: str) -> Tensor:
    """``max(0, conf(less) - conf(more))`` per sample, conf = largest probability; logits ``(batch, classes)``."""
    rise = (less.softmax(dim=1).amax(dim=1) - more.softmax(dim=1).amax(dim=1)).relu()
    return rise * counted(more.argmax(dim=1) == labels, less.argmax(dim=1) == labels, mask)


def counted(more_right: Tensor, less_right: Tensor, mask: str) -> Tensor:
    """``(batch,)``, 1 = sample counts; ``cpm`` excludes samples that are correct with fewer and wrong with more modalities."""
    return torch.ones_like(more_right, dtype=torch.float32) if mask == "all" else (more_right | ~less_right).float()
