"""Purification: after warm-up, continue training only on samples that the mixture rates as balanced, without the adaptive loss.

Source: arXiv 2510.21797v3, which fine-tunes on a balanced subset; the version that this project follows has no equation for it, so
**threshold and loss are reconstructed**. A class that would lose all its samples keeps its most balanced one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mm_balance.errors import UserError
from mm_balance.functional.adaptive import warmup_loss
from mm_balance.functional.labels import samples_by_class
from mm_balance.methods.base import Inspector, Method
from mm_balance.methods.options import option, parameter
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput


@dataclass(frozen=True)
class PurifiedOptions:
    """Options of purification."""

    threshold: float = option(0.5, "keep samples whose posterior of imbalance is at most this", minimum=0.0, maximum=1.0,
                              source="reconstructed", search=(0.1, 0.9, "linear"))  # fmt: skip
    unimodal_weight: float = parameter("unimodal_weight")


class Purified(Method):
    """Fine-tuning on the balanced samples."""

    name = "purified"
    title = "purification"
    citation = "arXiv 2510.21797v3 (reconstructed)"
    Options = PurifiedOptions
    several_classes = True
    needs_warmup = True

    def cost(self) -> Cost:
        return Cost(extra="fewer samples per epoch; one forward pass over the training split at each refit")

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if inspector.gap_fit is None:
            raise UserError("purified needs the gap fit of a warm-up run: give warmup_run")
        kept = balanced_samples(
            inspector.gap_fit.posterior_imbalanced, inspector.gap_fit.labels, self.options.threshold
        )
        return EpochPlan(notes={"method/share_kept": len(kept) / len(inspector.gap_fit.labels)}, samples=kept)

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        result = warmup_loss(output.fused, output.unimodal, batch.labels, unimodal_weight=self.options.unimodal_weight)
        return LossOutput(result.total, result.parts(), output)


def balanced_samples(posterior_imbalanced: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Ascending indices of samples with a posterior of at most ``threshold``, plus the lowest of every class without any.

    Args:
        posterior_imbalanced: ``(samples,)`` in [0, 1].
        labels: ``(samples,)`` int64, or multi-hot.
        threshold: in [0, 1].
    """
    kept = posterior_imbalanced <= threshold
    for indices in samples_by_class(labels).values():
        if not kept[indices].any():
            kept[indices[posterior_imbalanced[indices].argmin()]] = True
    return torch.nonzero(kept).squeeze(1)
