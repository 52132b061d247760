"""Loss mixture: the losses of a modality count less, the more a mixture on that modality's own losses doubts the sample.

    L = mean_i { (1 - max_m q_m,i) L_f,i + w sum_m (1 - q_m,i) L_m,i }

with q_m,i the posterior of the high-loss component of two Gaussians, fitted per modality before every epoch to ``-log`` of a running
mean of the true-class probabilities that training saw anyway (no extra pass). Before ``start_epoch`` the loss is the control's
(``concat_unimodal``). The rival of ``posterior_discount``: the same discount without the gap. A modality is judged by itself, so that
a wrong label makes all modalities of a sample doubtful, and any number of modalities will do.

**Begin after a warm-up, or late.** The losses of a modality that has learned little do not fall into two groups: the mixture then
holds most samples for broken, and their discount keeps the modality from learning.

Source: DivideMix, Li et al., ICLR 2020, arXiv 2002.07394, section 3.1, and its official code (github.com/LiJunnan1992/DivideMix).
Deviations: only the division of samples by their losses is taken: no co-training of two networks, no MixMatch, no label refinement, no
confidence penalty. The posterior is a soft weight where DivideMix splits the samples at 0.5. Losses are of running means where
DivideMix evaluates the training split before each epoch (and averages five evaluations at 90 % noise). The fit is ours, and the doubt
never falls as the loss grows; see ``mm_balance.functional.discount.loss_doubts``. **Ours**: one mixture per modality, the weight of
the fused loss, and ``persistence``, so that both methods can be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mm_balance.functional.discount import loss_doubts
from mm_balance.methods.doubting import DoubtingMethod
from mm_balance.methods.options import option


@dataclass(frozen=True)
class LossMixtureOptions:
    """Options of the loss mixture."""

    unimodal_weight: float = option(4.0, "weight of the unimodal losses", minimum=0.0, source="ours",
                                    search=(1.0, 16.0, "log"))  # fmt: skip
    start_epoch: int = option(3, "epochs of the stage before it begins", minimum=1, source="ours")
    persistence: int = option(1, "a doubt is the smallest of so many latest epochs; 1 = of the latest alone", minimum=1,
                              source="ours", search=(1, 8, "linear"))  # fmt: skip
    decay: float = option(0.7, "of the running means of the probabilities, per epoch", minimum=0.0, maximum=0.99,
                          source="ours")  # fmt: skip
    discounted: str = option(
        "both", "which losses are discounted", choices=("both", "unimodal", "fused"), source="ours"
    )


class LossMixture(DoubtingMethod):
    """Trust a modality of a sample as far as its own loss is among the low ones."""

    name = "loss_mixture"
    title = "mixture on the losses (control)"
    citation = "after DivideMix, Li et al., ICLR 2020, arXiv 2002.07394"
    Options = LossMixtureOptions

    def doubts_of(self, probabilities: Tensor) -> Tensor:
        return loss_doubts(probabilities)
