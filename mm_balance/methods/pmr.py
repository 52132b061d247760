"""PMR: class prototypes measure the strength of each modality; the weaker one also learns from its prototypes.

Source: Fan et al., PMR: Prototypical Modal Rebalance for Multimodal Learning, CVPR 2023, arXiv 2211.07089;
fanyunfeng-bit/Modal-Imbalance-PMR@3615e48, main_Prototype_grad.py. The weights ``clip`` follow the paper from memory (its text was
not re-read), ``binary`` the code. Deviations: prototypes of the whole training split in eval mode, where the code uses the first
tenth of a shuffled loader and can miss a class (``fraction=0.1``; a class without samples keeps its prototype here); the entropy
bonus of the paper is not in the code and is off by default; with more than two modalities each is compared with the strongest and
the weakest (ours; equals the paper's rule for two).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mm_balance.functional.modulation import SCORE_FLOOR
from mm_balance.functional.prototypes import class_means, moved_prototypes, prototype_logits
from mm_balance.methods.base import Inspector, Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput

OFFICIAL = "Modal-Imbalance-PMR@3615e48"


@dataclass(frozen=True)
class PmrOptions:
    """Options of PMR."""

    alpha: float = option(
        1.0, "weight of the prototype loss (authors' commands: mostly 2)", minimum=0.0, source=OFFICIAL,
        search=(0.25, 4.0, "log"),
    )  # fmt: skip
    momentum: float = option(0.2, "epsilon, share of the old prototypes", minimum=0.0, maximum=1.0, source=OFFICIAL)
    weight: str = option(
        "clip", "weight of each modality: the paper's, or the code's 0 and 1", choices=("clip", "binary")
    )
    entropy_weight: float = option(0.0, "mu, entropy bonus of the stronger modality (0.01: ours)", minimum=0.0)
    entropy_epochs: int = option(20, "E_e, stage epochs with the entropy bonus (ours)", minimum=0)
    start_epoch: int = option(0, "first stage epoch with the prototype loss", minimum=0, source=OFFICIAL)
    end_epoch: int = option(100, "last stage epoch with the prototype loss", minimum=0, source=OFFICIAL)
    fraction: float = option(
        1.0, "share of the training split that prototypes are computed from", minimum=0.0, exclusive=True, maximum=1.0
    )


class Pmr(Method):
    """Prototypical modal rebalance."""

    name = "pmr"
    title = "PMR"
    citation = "Fan et al., CVPR 2023, arXiv 2211.07089; fanyunfeng-bit/Modal-Imbalance-PMR@3615e48"
    Options = PmrOptions

    def cost(self) -> Cost:
        return Cost(refresh=1.0)

    def prepare(self, model: MultimodalNetwork) -> None:
        for name, width in model.widths.items():
            device = next(model.parameters()).device
            self.register_buffer(f"prototypes_{name}", torch.zeros(model.classes, width, device=device))

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        predictions = inspector.predict_split("train")
        labels = predictions.labels
        chosen = torch.randperm(len(labels))[: max(1, round(self.options.fraction * len(labels)))]
        # No momentum before training and after the first epoch: those prototypes are of an untrained network.
        momentum = self.options.momentum if clock.stage_epoch > 1 else 0.0
        for name, features in predictions.features.items():
            old = self.get_buffer(f"prototypes_{name}")
            fresh, counts = class_means(features[chosen], labels[chosen], model.classes)
            old.copy_(moved_prototypes(old, fresh.to(old.device), counts.to(old.device), momentum))
        return EpochPlan()

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        fused = cross_entropy(output.fused, batch.labels)
        if not self.options.start_epoch <= clock.stage_epoch <= self.options.end_epoch:
            return loss_output(output, fusion=fused)
        logits = {
            name: prototype_logits(value.float(), self.get_buffer(f"prototypes_{name}"))
            for name, value in output.features.items()
        }
        weaker, stronger = prototype_weights(logits, batch.labels, self.options.weight)
        parts = {
            f"prototype_{name}": self.options.alpha * weaker[name] * cross_entropy(value, batch.labels)
            for name, value in logits.items()
        }
        if self.options.entropy_weight > 0 and clock.stage_epoch < self.options.entropy_epochs:
            bonus = [stronger[name] * mean_entropy(value) for name, value in logits.items()]
            parts["entropy"] = -self.options.entropy_weight * torch.stack(bonus).sum()
        return loss_output(output, fusion=fused, **parts)


def prototype_weights(
    logits: dict[str, Tensor], labels: Tensor, kind: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weight each modality by its lag behind the strongest and by its lead over the weakest, both clipped to [0, 1].

    Args:
        logits: modality -> ``(batch, classes)`` prototype logits.
        labels: ``(batch,)``.
        kind: ``clip`` = ratio of scores minus 1; ``binary`` = 1 if it lags (leads) at all, else 0.

    Returns:
        Two mappings modality -> constant scalar: lag, lead.
    """
    scores = {
        name: value.detach().softmax(dim=1).gather(1, labels.unsqueeze(1)).sum().clamp_min(SCORE_FLOOR)
        for name, value in logits.items()
    }
    stacked = torch.stack(list(scores.values()))
    lag = {name: stacked.max() / value - 1 for name, value in scores.items()}
    lead = {name: value / stacked.min() - 1 for name, value in scores.items()}
    if kind == "binary":
        lag = {name: value.sign() for name, value in lag.items()}
        lead = {name: value.sign() for name, value in lead.items()}
    return (
        {name: value.clamp(0, 1) for name, value in lag.items()},
        {name: value.clamp(0, 1) for name, value in lead.items()},
    )


def mean_entropy(logits: Tensor) -> Tensor:
    """Batch mean of the entropy of ``softmax(logits)``, in nats."""
    logarithms = logits.log_softmax(dim=1)
    return -(logarithms.exp() * logarithms).sum(dim=1).mean()
