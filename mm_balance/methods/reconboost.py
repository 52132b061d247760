"""ReconBoost: one modality at a time learns what the others get wrong; then all are fine-tuned together.

Source: Hua et al., ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024, arXiv 2405.09321; huacong/ReconBoost@14ab57a,
train.py and models/dynamic_net.py. One two-layer classifier for all modalities; two alternating phases, each with a fresh optimizer:
first one encoder learns against the others' prediction, then all parameters are trained jointly. Deviations: no initialization from
unimodally trained encoders (give ``warmup_run`` for a shared one); the term GA has no gradient in the code and is omitted; both
phases use the run's learning rate. Compare at equal encoder passes, not at equal epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mm_balance.methods.base import Inspector, Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import Fusion, HeadSpec, MultimodalNetwork
from mm_balance.models.fusion import total_logits
from mm_balance.models.heads import common_width
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput

OFFICIAL = "ReconBoost@14ab57a"


@dataclass(frozen=True)
class ReconBoostOptions:
    """Options of ReconBoost."""

    phase_epochs: int = option(4, "epochs of each phase", minimum=1, source=OFFICIAL, search=(1, 4, "linear"))
    own_weight: float = option(5.0, "w1, weight of the modality's own cross-entropy", minimum=0.0, source=OFFICIAL)
    others_weight: float = option(1.0, "w2, discount where the others are correct", minimum=0.0, source=OFFICIAL)
    regulariser: str = option(
        "true_class", "the code's true-class term, or the paper's full divergence", choices=("true_class", "full")
    )


class BoostedHead(Fusion):
    """One two-layer classifier for all modalities; the fused logits are ``beta`` times their sum (ReconBoost)."""

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        width = common_width(widths)
        self.output = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, classes))
        self.beta = nn.Parameter(torch.tensor(1.0))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return ``beta`` times the sum of the unimodal logits, and the unimodal logits."""
        unimodal = {name: self.output(features[name]) for name in self.modalities}
        return self.beta * total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return no parameters: the classifier is shared."""
        return iter(())


class ReconBoost(Method):
    """Alternating boosting."""

    name = "reconboost"
    title = "ReconBoost"
    citation = "Hua et al., ICML 2024, arXiv 2405.09321; huacong/ReconBoost@14ab57a"
    Options = ReconBoostOptions
    fusions = ("concat",)

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(BoostedHead)

    def cost(self) -> Cost:
        share = 1 / len(self.modalities)
        return Cost(forward=1.0, backward=share, extra="every second phase trains all encoders: 1 backward")

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        return EpochPlan(reset_optimizer=clock.stage_epoch % self.options.phase_epochs == 0)

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        phase = clock.stage_epoch // self.options.phase_epochs
        if phase % 2:
            output = model(batch.inputs)
            return loss_output(output, fusion=cross_entropy(output.fused, batch.labels))
        learner = self.modalities[phase // 2 % len(self.modalities)]
        others = tuple(name for name in self.modalities if name != learner)
        with torch.no_grad():  # in training mode, as in the code: running statistics are updated
            features = model.encode(batch.inputs, others)
        features |= model.encode(batch.inputs, (learner,))
        output = model.fuse({name: features[name] for name in self.modalities})
        assert isinstance(model.fusion, BoostedHead)
        ensemble = model.fusion.beta.detach() * torch.stack([output.unimodal[name].detach() for name in others]).sum(
            dim=0
        )
        values = boosting_losses(
            output.unimodal[learner].float(), ensemble.float(), batch.labels,
            self.options.own_weight, self.options.others_weight, self.options.regulariser,
        )  # fmt: skip
        return loss_output(output, boosting=values.mean())


def boosting_losses(
    own: Tensor, others: Tensor, labels: Tensor, own_weight: float, others_weight: float, regulariser: str
) -> Tensor:
    """Loss per sample, ``(batch,)``; P is the prediction of the others, a constant.

    ``true_class``: ``-(w1 - w2 P[y]) log p[y] / classes``; ``full``: ``-w1 log p[y] + w2 sum_c P[c] log p[c]``.

    Args:
        own: ``(batch, classes)`` logits of the learner.
        others: ``(batch, classes)`` joint logits of all others.
        labels: ``(batch,)``.
        own_weight: w1.
        others_weight: w2.
        regulariser: ``true_class`` or ``full``.
    """
    log_p, prior = own.log_softmax(dim=1), others.softmax(dim=1)
    log_p_true = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    if regulariser == "full":
        return -own_weight * log_p_true + others_weight * (prior * log_p).sum(dim=1)
    weight = own_weight - others_weight * prior.gather(1, labels.unsqueeze(1)).squeeze(1)
    return -weight * log_p_true / own.shape[1]
