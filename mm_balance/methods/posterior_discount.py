"""Posterior discount: the losses of a modality count less, the more the mixture doubts that modality of the sample.

    L = mean_i { (1 - max_m q_m,i) L_f,i + w sum_m (1 - q_m,i) L_m,i }

with q_m,i the doubt of ``mm_balance.functional.discount``, refreshed before every epoch from a running mean of the true-class
probabilities that training saw anyway (no extra pass). Until there are enough epochs the loss is the control's (``concat_unimodal``).

For data with unreliable modalities: broken, blank or mismatched sounds and images. A mixture always finds a component of high losses,
on clean data that of what is merely hard or not learned yet. Two rules are there against this: only a modality that lags behind its
peers on this sample is doubted, and only by more than ``margin`` beyond what is usual for it. Rules and values were chosen on
validation, see docs/results/posterior_discount.md.

Source: ours. The posterior as a weight is the idea of arXiv 2510.21797v1, turned round; see ``mm_balance.functional.discount``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm_balance.functional.discount import modality_doubts
from mm_balance.methods.doubting import DoubtingMethod
from mm_balance.methods.options import option
from mm_balance.types import Clock

SHUFFLE_SEED = 0


@dataclass(frozen=True)
class PosteriorDiscountOptions:
    """Options of the posterior discount."""

    unimodal_weight: float = option(4.0, "weight of the unimodal losses", minimum=0.0, source="ours",
                                    search=(1.0, 16.0, "log"))  # fmt: skip
    start_epoch: int = option(3, "epochs of the stage before it begins", minimum=1, source="ours")
    persistence: int = option(1, "a doubt is the smallest of so many latest epochs; 1 = of the latest alone", minimum=1,
                              source="ours", search=(1, 8, "linear"))  # fmt: skip
    margin: float = option(
        1.0, "smallest excess of a modality's loss over its median that is doubted, nats", minimum=0.0, source="ours"
    )
    decay: float = option(0.7, "of the running means of the probabilities, per epoch", minimum=0.0, maximum=0.99,
                          source="ours")  # fmt: skip
    discount: float = option(1.0, "how much of a doubted loss is taken away; 0 = the control", minimum=0.0, maximum=1.0,
                             source="ours")  # fmt: skip
    discounted: str = option(
        "both", "which losses are discounted", choices=("both", "unimodal", "fused"), source="ours"
    )
    shuffled: bool = option(False, "ablation: give the same doubts to random samples", source="ours")


class PosteriorDiscount(DoubtingMethod):
    """Trust a modality of a sample as far as the mixture does not hold it for broken."""

    name = "posterior_discount"
    title = "posterior discount"
    citation = "ours; cf. Arazo et al., ICML 2019, arXiv 1904.11238; DivideMix, ICLR 2020, arXiv 2002.07394"
    Options = PosteriorDiscountOptions

    order: Tensor

    def __init__(self, options: PosteriorDiscountOptions, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        order = torch.arange(train_samples)
        if options.shuffled:
            order = torch.randperm(train_samples, generator=torch.Generator().manual_seed(SHUFFLE_SEED))
        self.register_buffer("order", order, persistent=False)

    def doubts_of(self, probabilities: Tensor) -> Tensor:
        return modality_doubts(probabilities, margin=self.options.margin)

    def _discounts(self, index: Tensor, clock: Clock) -> Tensor:
        return self.options.discount * self._doubts(index, clock)

    def _doubts_at(self, index: Tensor) -> Tensor:
        return super()._doubts_at(self.order[index])
