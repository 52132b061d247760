"""Generalized cross-entropy on the fused and all unimodal predictions: a control that resists corrupted samples without the gap.

Source: Zhang & Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, NeurIPS 2018,
arXiv 1805.07836, Eq. 6. Deviations: no truncation; **ours**: its use on unimodal losses, and cross-entropy in the first epochs.
"""

from dataclasses import dataclass

import torch

from mm_balance.functional.adaptive import warmup_loss
from mm_balance.functional.robust import generalized_cross_entropy
from mm_balance.methods.base import Method, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class GceOptions:
    """Options of the generalized cross-entropy."""

    power: float = option(
        0.7, "q: 1 = one minus the probability of the true class, towards 0 = cross-entropy", minimum=0.0, exclusive=True,
        maximum=1.0, source="Zhang & Sabuncu",
    )  # fmt: skip
    unimodal_weight: float = option(
        4.0, "weight of the unimodal losses", minimum=0.0, source="ours", search=(1.0, 16.0, "log")
    )
    start_epoch: int = option(3, "stage epochs of cross-entropy first", minimum=0, source="ours")


class Gce(Method):
    """Fused plus weighted unimodal generalized cross-entropies."""

    name = "gce"
    title = "generalized cross-entropy (control)"
    citation = "Zhang & Sabuncu, NeurIPS 2018, arXiv 1805.07836"
    Options = GceOptions

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        weight, power = self.options.unimodal_weight, self.options.power
        if clock.stage_epoch < self.options.start_epoch:
            result = warmup_loss(output.fused, output.unimodal, batch.labels, unimodal_weight=weight)
            return LossOutput(result.total, result.parts(), output)
        unimodal = torch.stack(
            [generalized_cross_entropy(logits, batch.labels, power).mean() for logits in output.unimodal.values()]
        ).sum()
        fusion = generalized_cross_entropy(output.fused, batch.labels, power).mean()
        return loss_output(output, fusion=fusion, unimodal=weight * unimodal)
