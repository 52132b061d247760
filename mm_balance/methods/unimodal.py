"""Controls: each modality alone, and their late fusion.

``one_modality`` trains one encoder with a linear head; the other encoders are not run. ``audio_only`` and ``visual_only`` are the same
for modalities of these names. ``ensemble`` trains all encoders side by side with independent losses, which is equivalent to training
them separately, and predicts the mean of their probabilities (UME). ``mean_of=logits`` averages logits instead.

Source: Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023, arXiv 2305.01233, for the ensemble
(official code not found; based on a description of the paper). Training on one modality is the control of every paper here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError
from mm_balance.methods.base import Method, NoOptions, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import Fusion, HeadSpec, LateFusion, MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, LossOutput


class OnlyHead(Fusion):
    """A head for one modality. The others are not encoded; their logits are all zero (uniform predictions)."""

    exact_unimodal = True

    def __init__(self, widths: Mapping[str, int], classes: int, modality: str) -> None:
        super().__init__(widths, classes)
        if modality not in widths:
            raise UserError(f"this network has no modality {modality}; it has {', '.join(widths)}")
        self.uses = (modality,)
        self.output = nn.Linear(widths[modality], classes)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the modality's logits as fused logits, and zeros for the other modalities; only its features are read."""
        (modality,) = self.uses
        logits = self.output(features[modality])
        uniform = torch.zeros_like(logits)
        return logits, {name: logits if name == modality else uniform for name in self.modalities}

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return all parameters for the modality in use, none for the others."""
        return self.output.parameters() if modality in self.uses else iter(())


@dataclass(frozen=True)
class OneModalityOptions:
    """Options of training on one modality."""

    modality: str | None = option(None, "the modality to train on, must be given: one of `modalities`", source="ours")


class OneModality(Method):
    """Training on one modality; ``fusion`` has no effect.

    Raises:
        UserError: no modality is given, or the data lack it.
    """

    name = "one_modality"
    title = "one modality alone"
    citation = "control for all comparisons"
    Options: ClassVar[type] = OneModalityOptions
    several_classes = True

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        self.modality = self.wanted()
        if self.modality not in self.modalities:
            wanted = "a modality" if self.modality is None else f"a modality {self.modality}"
            raise UserError(
                f"method {self.name} needs {wanted}; there are {', '.join(self.modalities)}: give method=one_modality "
                f"method_options=modality={self.modalities[0]}, or another one of them"
            )

    def wanted(self) -> str | None:
        """Return the name of the modality to train on; None = not given."""
        return self.options.modality

    def headline(self) -> str:
        name = str(self.modality)
        return f"{name[:1].upper()}{name[1:]} alone"

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(OnlyHead, {"modality": self.modality})

    def cost(self) -> Cost:
        share = 1 / len(self.modalities)
        return Cost(forward=share, backward=share)


class AudioOnly(OneModality):
    """Audio only."""

    name = "audio_only"
    title = "audio alone"
    Options = NoOptions

    def wanted(self) -> str:
        return "audio"


class VisualOnly(OneModality):
    """Visual only."""

    name = "visual_only"
    title = "visual alone"
    Options = NoOptions

    def wanted(self) -> str:
        return "visual"


@dataclass(frozen=True)
class EnsembleOptions:
    """Options of the ensemble."""

    mean_of: str = option(
        "probabilities",
        "quantity that is averaged in the prediction",
        choices=("probabilities", "logits"),
        source="UME",
    )


class Ensemble(Method):
    """Independently trained modalities with averaged predictions."""

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
