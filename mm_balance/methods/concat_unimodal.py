"""Joint training with unimodal losses: the control that every balancing method must beat.

Source: arXiv 2510.21797v1, Eq. 5 and 7; Eq. 7's form, mean(L_f + w_uni sum_m L_m), is **reconstructed** from the prose.
The same loss is stage 1 of the paper's method, with ``warmup_unimodal_weight``.
"""

from dataclasses import dataclass

from mm_balance.functional.adaptive import warmup_loss
from mm_balance.methods.base import Method
from mm_balance.methods.options import parameter
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput


@dataclass(frozen=True)
class UnimodalOptions:
    """Options of joint training with unimodal losses: ``unimodal_weight`` (>= 0) is w_uni of Eq. 7."""

    unimodal_weight: float = parameter("unimodal_weight")


class ConcatUnimodal(Method):
    """Fused plus weighted unimodal cross-entropies."""

    name = "concat_unimodal"
    title = "joint training + unimodal losses (control)"
    citation = "arXiv 2510.21797v1, Eq. 5 and 7 (Eq. 7 reconstructed)"
    Options = UnimodalOptions
    several_classes = True

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        result = warmup_loss(output.fused, output.unimodal, batch.labels, unimodal_weight=self.options.unimodal_weight)
        return LossOutput(result.total, result.parts(), output)
