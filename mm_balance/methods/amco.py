"""AMCo: mask more and more features of the modality that the model depends on; unimodal losses keep it accurate.

Source: Zhou et al., Adaptive Mask Co-Optimization for Modal Dependence in Multimodal Learning, ICASSP 2023. **No official code was
found**; based on the abstract and BalanceBenchmark@4c1482f (AMCo_trainer.py), which masks class logits, resets its clock every epoch,
and computes the unimodal losses from masked logits. Here, feature entries are masked, time is measured in tenths of epochs, and the
unimodal losses see unmasked features. The paper's schedule could not be verified.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class AmcoOptions:
    """Options of AMCo."""

    threshold: float = option(0.5, "sigma: the model depends on modalities whose share exceeds this", minimum=0.0, maximum=1.0,
                              source="BalanceBenchmark@4c1482f", search=(0.4, 0.7, "linear"))  # fmt: skip
    limit: float = option(0.3, "epsilon: time (tenths of epochs) at which everything is masked", minimum=0.0, exclusive=True,
                          source="BalanceBenchmark@4c1482f", search=(0.3, 4.0, "log"))  # fmt: skip


class Amco(Method):
    """Adaptive masks."""

    name = "amco"
    title = "AMCo"
    citation = "Zhou et al., ICASSP 2023 (no official code found); BalanceBenchmark@4c1482f"
    Options = AmcoOptions

    depended: Tensor

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        self.register_buffer("depended", torch.zeros(len(modalities)))

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        features = model.encode(batch.inputs)
        output = model.fuse(features)
        masked_share = mask_share(clock.stage_epoch / 10, self.options.limit)
        masked = {}
        for index, (name, value) in enumerate(output.features.items()):
            mask = random_mask(value.shape[1], masked_share, value.device)
            masked[name] = value * torch.where(self.depended[index] > 0, mask, torch.ones_like(mask))
        fused = cross_entropy(model.fuse(masked).fused, batch.labels)
        losses = {f"unimodal_{name}": cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        return loss_output(output, fusion=fused, **losses)

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        """Record which modalities the model depends on, to mask them in the next step; gradients are not edited."""
        shares = dependence(loss_output.output.unimodal)
        self.depended.copy_(torch.stack([(value > self.options.threshold).float() for value in shares.values()]))


def mask_share(time: float, limit: float) -> float:
    """Share of masked entries: ``sin(pi / 2 min(limit, time) / limit)``."""
    return math.sin(math.pi / 2 * min(limit, time) / limit)


def random_mask(width: int, share: float, device: torch.device) -> Tensor:
    """``(width,)`` ones with ``floor(share * width)`` zeros at random positions."""
    order = torch.randperm(width, device=device)
    return (order >= int(share * width)).float()


@torch.no_grad()
def dependence(unimodal: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Share of each modality in one softmax over all classes and modalities, averaged over the batch; shares sum to 1."""
    joined = torch.cat([value.float() for value in unimodal.values()], dim=1).softmax(dim=1)
    parts = joined.split([value.shape[1] for value in unimodal.values()], dim=1)
    return {name: part.sum(dim=1).mean() for name, part in zip(unimodal, parts, strict=True)}
