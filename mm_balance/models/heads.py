"""Heads that several methods bring with them; one of a single method is in that method's file.

A method says which head it trains (``Method.choose_head``); the head is part of the network, so that the logged model predicts as
the method does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError
from mm_balance.models.fusion import Fusion, build_fusion, total_logits


class OwnHeads(Fusion):
    """A fusion whose unimodal logits come from classifiers of their own, one linear layer per modality.

    Args:
        joint: the fusion's name.
    """

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int, joint: str) -> None:
        super().__init__(widths, classes)
        self.joint = build_fusion(joint, widths, classes)
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        fused, _ = self.joint(features)
        return fused, {name: self.own[name](features[name]) for name in self.modalities}

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The modality's classifier, and what is its own in the joint head."""
        yield from self.own[modality].parameters()
        yield from self.joint.head_parameters(modality)

    def warmup_name(self, name: str) -> str:
        """See ``Fusion.warmup_name``: a warm-up trains the joint fusion alone."""
        return name.removeprefix("joint.")


class LateFusion(Fusion):
    """A classifier per modality; the prediction is the mean of their logits, or of their probabilities.

    Args:
        mean_of: ``logits`` or ``probabilities``; for the latter the fused logits are logarithms of the mean probabilities.
    """

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int, mean_of: str) -> None:
        super().__init__(widths, classes)
        self.mean_of = mean_of
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        unimodal = {name: self.own[name](features[name]) for name in self.modalities}
        if self.mean_of == "logits":
            return total_logits(unimodal) / len(unimodal), unimodal
        logarithms = torch.stack([value.log_softmax(dim=1) for value in unimodal.values()])
        # The constant log(M) is left out: it changes no probability.
        return logarithms.logsumexp(dim=0), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The modality's classifier; nothing is shared."""
        return self.own[modality].parameters()


def common_width(widths: Mapping[str, int]) -> int:
    """The number of features that all modalities have. Raises UserError where they differ: one classifier cannot take them all."""
    if len(set(widths.values())) != 1:
        raise UserError(f"a shared head needs features of one width, there are {dict(widths)}")
    return next(iter(widths.values()))
