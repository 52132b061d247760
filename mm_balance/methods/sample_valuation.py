"""Sample-level modality valuation: samples whose modality contributes little are shown again, with that modality alone.

Source: Wei et al., Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024, arXiv 2309.06255;
GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation@7ed12b0, code/sample_level.py and modality_level.py (not runnable as released).
Deviations: valuation sees the samples without augmentation; more than two modalities by the general Shapley value (ours for the
modality level: the lowest against the highest mean).
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
"""Below each of them a sample is shown once more. The first stands for 1: values of two modalities are multiples of a half."""


@dataclass(frozen=True)
class SampleValuationOptions:
    """See the fields' help."""

    level: str = option("sample", "what is shown again is chosen", choices=("sample", "modality"),
                        search=("sample", "modality"))  # fmt: skip
    start_epoch: int = option(5, "epochs of the stage before it begins", minimum=0, source=OFFICIAL,
                               search=(1, 10, "linear"))  # fmt: skip
    part: float = option(0.2, "`modality`: share of the samples that are valued", minimum=0.0, exclusive=True, maximum=1.0,
                         source=OFFICIAL)  # fmt: skip
    alpha: float = option(1.0, "`modality`: how much is shown again", minimum=0.0, source=OFFICIAL)


class SampleValuation(Method):
    """Re-sampling by the contribution of each modality to each sample."""

    name = "sample_valuation"
    title = "sample-level modality valuation"
    citation = "Wei et al., CVPR 2024, arXiv 2309.06255; GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation@7ed12b0"
    Options = SampleValuationOptions

    def cost(self) -> Cost:
        return Cost(extra="after the quiet epochs one forward pass over train per epoch, and the samples shown again")

    @torch.no_grad()
    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if clock.stage_epoch < self.options.start_epoch:
            return EpochPlan()
        seen = inspector.predict_split("train")
        values = shapley_of_samples(correct_coalitions(model, seen), self.modalities)
        if self.options.level == "sample":
            again = {name: copies(value) for name, value in values.items()}
        else:
            again = self._modality_level(values, len(seen.labels))
        everything = torch.arange(len(seen.labels))
        samples = torch.cat([everything, *again.values()])
        present = {}
        for name in self.modalities:
            shown = [torch.full((len(extra),), other == name) for other, extra in again.items()]
            present[name] = torch.cat([torch.ones(len(everything), dtype=torch.bool), *shown])
        notes = {f"method/value_{name}": float(value.mean()) for name, value in values.items()}
        notes |= {f"method/shown_again_{name}": len(extra) / len(everything) for name, extra in again.items()}
        return EpochPlan(notes=notes, samples=samples, present=present)

    def _modality_level(self, values: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        drawn = torch.randint(count, (max(1, int(self.options.part * count)),))
        means = {name: float(value[drawn].mean()) for name, value in values.items()}
        weakest = min(means, key=lambda name: means[name])
        share = modality_share(max(means.values()), means[weakest], self.options.alpha)
        return {weakest: torch.randint(count, (int(share * count),))}

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        features = model.encode(batch.inputs)
        if batch.present:  # features of what is not shown are zero, and send nothing back to their encoder
            features = {name: value * batch.present[name].unsqueeze(1) for name, value in features.items()}
        output = model.fuse(features)
        return loss_output(output, fusion=cross_entropy(output.fused, batch.labels))


def correct_coalitions(model: MultimodalNetwork, seen: SplitPredictions) -> dict[Coalition, Tensor]:
    """Whether each sample is right from every coalition, the features of the others zero: coalition -> ``(samples,)`` bool."""
    found = {}
    device = next(model.parameters()).device
    for members in next(iter(shapley_shares(model.modalities).values())):
        shown = {name: value if name in members else torch.zeros_like(value) for name, value in seen.features.items()}
        logits = model.fuse({name: value.to(device) for name, value in shown.items()}).fused
        found[members] = logits.argmax(dim=1).cpu() == seen.labels
    return found


def shapley_of_samples(correct: Mapping[Coalition, Tensor], modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """Shapley values of each sample, where a coalition S that is right is worth |S|: modality -> ``(samples,)``."""
    return {
        name: torch.stack([share * len(members) * correct[members] for members, share in shares.items()]).sum(dim=0)
        for name, shares in shapley_shares(modalities).items()
    }


def copies(values: Tensor) -> Tensor:
    """Samples to show again, with repetitions, for values ``(samples,)``: one for each threshold that a value is below."""
    return torch.cat([(values < threshold).nonzero().squeeze(1) for threshold in THRESHOLDS]).sort().values


def modality_share(highest: float, lowest: float, alpha: float) -> float:
    """Share of the samples that are shown again with the weakest modality alone: ``2 / 3 alpha`` times the difference of means."""
    return 2 / 3 * alpha * abs(highest - lowest)
