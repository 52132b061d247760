"""Sample-level modality valuation: repeat samples in which a modality contributes little, with that modality alone.

Source: Wei et al., Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024, arXiv 2309.06255;
GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation@7ed12b0, code/sample_level.py and modality_level.py (not runnable as released).
Deviations: samples are valued without augmentation; more than two modalities use the general Shapley value (ours at the modality
level: the lowest mean against the highest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mm_balance.functional.contribution import Coalition, shapley_shares
from mm_balance.methods.base import Inspector, Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput, SplitPredictions

OFFICIAL = "Valuate-and-Enhance-Multimodal-Cooperation@7ed12b0"
THRESHOLDS = (0.99, 0.4, -0.1)
"""A sample is repeated once for each threshold above its value. 0.99 means 1: values of two modalities are multiples of 0.5."""


@dataclass(frozen=True)
class SampleValuationOptions:
    """Options of sample-level modality valuation."""

    level: str = option("sample", "choose repeated samples per sample or per modality", choices=("sample", "modality"),
                        search=("sample", "modality"))  # fmt: skip
    start_epoch: int = option(5, "stage epochs before re-sampling starts", minimum=0, source=OFFICIAL,
                               search=(1, 10, "linear"))  # fmt: skip
    part: float = option(0.2, "`modality`: share of samples that are valued", minimum=0.0, exclusive=True, maximum=1.0,
                         source=OFFICIAL)  # fmt: skip
    alpha: float = option(1.0, "`modality`: scale of the share of repeated samples", minimum=0.0, source=OFFICIAL)


class SampleValuation(Method):
    """Re-sampling by the contribution of each modality to each sample."""

    name = "sample_valuation"
    title = "sample-level modality valuation"
    citation = "Wei et al., CVPR 2024, arXiv 2309.06255; GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation@7ed12b0"
    Options = SampleValuationOptions

    def cost(self) -> Cost:
        return Cost(extra="from `start_epoch`, one forward pass over train per epoch, and the repeated samples")

    @torch.no_grad()
    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if clock.stage_epoch < self.options.start_epoch:
            return EpochPlan()
        predictions = inspector.predict_split("train")
        values = shapley_of_samples(correct_coalitions(model, predictions), self.modalities)
        if self.options.level == "sample":
            repeated = {name: copies(value) for name, value in values.items()}
        else:
            repeated = self._modality_level(values, len(predictions.labels))
        # The epoch: every sample once with all modalities, then the repeated ones with one modality each.
        everything = torch.arange(len(predictions.labels))
        samples = torch.cat([everything, *repeated.values()])
        present = {}
        for name in self.modalities:
            masks = [torch.full((len(extra),), other == name) for other, extra in repeated.items()]
            present[name] = torch.cat([torch.ones(len(everything), dtype=torch.bool), *masks])
        notes = {f"method/value_{name}": float(value.mean()) for name, value in values.items()}
        notes |= {f"method/shown_again_{name}": len(extra) / len(everything) for name, extra in repeated.items()}
        return EpochPlan(notes=notes, samples=samples, present=present)

    def _modality_level(self, values: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        drawn = torch.randint(count, (max(1, int(self.options.part * count)),))
        means = {name: float(value[drawn].mean()) for name, value in values.items()}
        weakest = min(means, key=lambda name: means[name])
        share = modality_share(max(means.values()), means[weakest], self.options.alpha)
        return {weakest: torch.randint(count, (int(share * count),))}

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        features = model.encode(batch.inputs)
        if batch.present:  # features of absent modalities are zero and pass no gradient to their encoder
            features = {name: value * batch.present[name].unsqueeze(1) for name, value in features.items()}
        output = model.fuse(features)
        return loss_output(output, fusion=cross_entropy(output.fused, batch.labels))


def correct_coalitions(model: MultimodalNetwork, predictions: SplitPredictions) -> dict[Coalition, Tensor]:
    """Whether each coalition, all other features zero, classifies each sample correctly: coalition -> ``(samples,)`` bool."""
    correct = {}
    device = next(model.parameters()).device
    for members in next(iter(shapley_shares(model.modalities).values())):
        features = {
            name: value if name in members else torch.zeros_like(value) for name, value in predictions.features.items()
        }
        logits = model.fuse({name: value.to(device) for name, value in features.items()}).fused
        correct[members] = logits.argmax(dim=1).cpu() == predictions.labels
    return correct


def shapley_of_samples(correct: Mapping[Coalition, Tensor], modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """Shapley values per sample, where a correct coalition S has value |S|: modality -> ``(samples,)``."""
    return {
        name: torch.stack([share * len(members) * correct[members] for members, share in shares.items()]).sum(dim=0)
        for name, shares in shapley_shares(modalities).items()
    }


def copies(values: Tensor) -> Tensor:
    """Indices of the samples to repeat for values ``(samples,)``: once per threshold that a value lies below."""
    return torch.cat([(values < threshold).nonzero().squeeze(1) for threshold in THRESHOLDS]).sort().values


def modality_share(highest: float, lowest: float, alpha: float) -> float:
    """Share of samples repeated with the weakest modality alone: ``2 / 3 alpha`` times the difference of means."""
    return 2 / 3 * alpha * abs(highest - lowest)
