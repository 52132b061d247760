"""Heads shared by several methods; heads of a single method are in that method's file.

A method chooses its head (``Method.choose_head``); the head is part of the network, so the logged model predicts like the method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError
from mm_balance.models.fusion import Fusion, build_fusion, total_logits


class OwnHeads(Fusion):
    """A fusion with separate classifiers for the unimodal logits, one linear layer per modality.

    Args:
        joint: name of the fusion.
    """

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int, joint: str) -> None:
        super().__init__(widths, classes)
        self.joint = build_fusion(joint, widths, classes)
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the fused logits of the joint fusion, and the unimodal logits of the separate classifiers."""
        fused, _ = self.joint(features)
        return fused, {name: self.own[name](features[name]) for name in self.modalities}

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the parameters of the modality's classifier, and its own parameters in the joint head."""
        yield from self.own[modality].parameters()
        yield from self.joint.head_parameters(modality)

    def warmup_name(self, name: str) -> str:
        """Return the name without the prefix ``joint.``: a warm-up trains the joint fusion alone."""
        return name.removeprefix("joint.")


class LateFusion(Fusion):
    """One classifier per modality; the prediction is the mean of their logits or probabilities.

    Args:
        mean_of: ``logits`` or ``probabilities``; for the latter the fused logits are the log of the mean probabilities.
    """

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int, mean_of: str) -> None:
        super().__init__(widths, classes)
        self.mean_of = mean_of
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the averaged logits or log probabilities, and the unimodal logits."""
        unimodal = {name: self.own[name](features[name]) for name in self.modalities}
        if self.mean_of == "logits":
            return total_logits(unimodal) / len(unimodal), unimodal
        logarithms = torch.stack([value.log_softmax(dim=1) for value in unimodal.values()])
        # The constant log(M) is omitted: it changes no probability.
        return logarithms.logsumexp(dim=0), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the modality's classifier; nothing is shared."""
        return self.own[modality].parameters()


def common_width(widths: Mapping[str, int]) -> int:
    """Return the number of features common to all modalities, for a shared classifier. Raises UserError if they differ."""
    if len(set(widths.values())) != 1:
        raise UserError(f"a shared head needs the same feature width for all modalities, got {dict(widths)}")
    return next(iter(widths.values()))
