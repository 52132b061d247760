"""Controls: each modality alone, and their late fusion.

``audio_only`` and ``visual_only`` train one encoder with a linear head; the others are not even run. ``ensemble`` trains all of them
side by side with losses that share nothing, which is the same as one after the other, and predicts with the mean of their
probabilities: UME of Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023, arXiv 2305.01233
(official code not found; from a description of the paper). Option ``mean_of=logits`` averages logits instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError
from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import Fusion, HeadSpec, LateFusion, MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, LossOutput


class OnlyHead(Fusion):
    """One modality alone. The others are not encoded, and count as knowing nothing: their logits are all zero."""

    exact_unimodal = True

    def __init__(self, widths: Mapping[str, int], classes: int, modality: str) -> None:
        super().__init__(widths, classes)
        if modality not in widths:
            raise UserError(f"this network has no modality {modality}; it has {', '.join(widths)}")
        self.uses = (modality,)
        self.output = nn.Linear(widths[modality], classes)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``; only the features of the one modality are read."""
        (modality,) = self.uses
        logits = self.output(features[modality])
        unknown = torch.zeros_like(logits)
        return logits, {name: logits if name == modality else unknown for name in self.modalities}

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Everything, for the one modality."""
        return self.output.parameters() if modality in self.uses else iter(())


class OneModality(Method):
    """One modality alone; whatever ``fusion`` is, there is nothing to fuse."""

    modality: ClassVar[str]
    citation = "control of every comparison"

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        if self.modality not in modalities:
            raise UserError(f"method {self.name} needs a modality {self.modality}; there are {', '.join(modalities)}")

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(OnlyHead, {"modality": self.modality})

    def cost(self) -> Cost:
        share = 1 / len(self.modalities)
        return Cost(forward=share, backward=share)


class AudioOnly(OneModality):
    """Sound alone."""

    name = "audio_only"
    title = "audio alone"
    modality = "audio"


class VisualOnly(OneModality):
    """Pictures alone."""

    name = "visual_only"
    title = "visual alone"
    modality = "visual"


@dataclass(frozen=True)
class EnsembleOptions:
    """See the fields' help."""

    mean_of: str = option(
        "probabilities", "what the prediction is the mean of", choices=("probabilities", "logits"), source="UME"
    )


class Ensemble(Method):
    """Every modality by itself, predictions averaged."""

    name = "ensemble"
    title = "late fusion of unimodal models (UME)"
    citation = "Du et al., ICML 2023, arXiv 2305.01233 (no official code found)"
    Options = EnsembleOptions

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(LateFusion, {"mean_of": self.options.mean_of})

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        losses = {f"unimodal_{name}": cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        return loss_output(output, **losses)
