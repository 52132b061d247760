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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm_balance.functional.discount import UNSEEN, discounted_losses, loss_doubts, running_mean
from mm_balance.functional.gap import true_class_probability
from mm_balance.methods.base import Inspector, Method, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, EpochPlan, LossOutput


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


class LossMixture(Method):
    """Trust a modality of a sample as far as its own loss is among the low ones."""

    name = "loss_mixture"
    title = "mixture on the losses (control)"
    citation = "after DivideMix, Li et al., ICLR 2020, arXiv 2002.07394"
    Options = LossMixtureOptions

    latest: Tensor
    running: Tensor
    history: Tensor

    def __init__(self, options: LossMixtureOptions, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        shape = (len(self.modalities), train_samples)
        self.register_buffer("latest", torch.full(shape, UNSEEN, dtype=torch.float64))
        self.register_buffer("running", torch.full(shape, UNSEEN, dtype=torch.float64))
        # Newest first. Zeros until filled, so that nothing is doubted before `persistence` epochs have passed.
        self.register_buffer("history", torch.zeros(options.persistence, *shape))

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if (self.latest < 0).all():
            return EpochPlan()
        self.running.copy_(running_mean(self.running, self.latest, self.options.decay))
        self.latest.fill_(UNSEEN)
        self.history.copy_(torch.cat([loss_doubts(self.running).unsqueeze(0), self.history[:-1]]))
        means = self._doubts(torch.arange(self.train_samples, device=self.history.device), clock).mean(dim=1).tolist()
        return EpochPlan(
            notes={f"method/doubt_{name}": mean for name, mean in zip(self.modalities, means, strict=True)}
        )

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        unimodal = {name: output.unimodal[name] for name in self.modalities}
        fused_loss, unimodal_loss = discounted_losses(
            output.fused, unimodal, batch.labels, self._doubts(batch.index, clock),
            unimodal_weight=self.options.unimodal_weight, discounted=self.options.discounted,
        )  # fmt: skip
        return loss_output(output, fusion=fused_loss, unimodal=unimodal_loss)

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        for row, name in enumerate(self.modalities):
            logits = loss_output.output.unimodal[name].detach().double()
            self.latest[row, batch.index] = true_class_probability(logits, batch.labels)

    def _doubts(self, index: Tensor, clock: Clock) -> Tensor:
        """Return the doubts about the samples at ``index`` in this epoch, ``(modalities, len(index))``."""
        doubts = self.history[:, :, index].amin(dim=0)
        return doubts if clock.stage_epoch >= self.options.start_epoch else torch.zeros_like(doubts)
