"""Focal loss on the fused prediction: a control that weights samples regardless of modalities.

Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002, in its softmax form. Deviations: no class
weights. ``detach=true`` treats the weight as a constant, which changes gradients but not values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mm_balance.methods.base import Method, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class FocalOptions:
    """Options of the focal loss."""

    focus: float = option(
        2.0, "gamma: how strongly easy samples are down-weighted; 0 = cross-entropy", minimum=0.0, source="Lin et al.",
        search=(0.5, 4.0, "linear"),
    )  # fmt: skip
    detach: bool = option(False, "no gradient through the weight")


class Focal(Method):
    """Cross-entropy that down-weights easy samples."""

    name = "focal"
    title = "focal loss (control)"
    citation = "Lin et al., ICCV 2017, arXiv 1708.02002"
    Options = FocalOptions

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        values = focal_losses(output.fused, batch.labels, self.options.focus, detach=self.options.detach)
        return loss_output(output, fusion=values.mean())


def focal_losses(logits: Tensor, labels: Tensor, focus: float, *, detach: bool = False) -> Tensor:
    """``(1 - p_y)^focus (-log p_y)`` per sample; logits ``(batch, classes)``, labels ``(batch,)``."""
    cross_entropy = functional.cross_entropy(logits.float(), labels, reduction="none")
    # 1 - p_y from its logarithm, accurate for small values; never 0, where a power below 1 has no derivative.
    complement = (-(-cross_entropy).expm1()).clamp_min(torch.finfo(torch.float32).tiny)
    return (complement.detach() if detach else complement) ** focus * cross_entropy
