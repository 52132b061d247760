"""Heads that methods bring with them: what a fusion does for a network, for networks that have no joint classifier.

A method says which head it trains (``Method.head``); the head is part of the network, so that the logged model predicts as the
method does. Names: ``concat+own`` (any fusion with a classifier per modality beside it), ``late_logits``,
``late_probabilities``, ``only:<modality>``, ``cosine``, ``shared_entropy``, ``shared_fixed``, ``shared_batch``, ``boosted``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm_balance.errors import UserError
from mm_balance.models.fusion import Fusion, build_fusion, total_logits


class OwnHeads(Fusion):
    """A fusion whose unimodal logits come from classifiers of their own, one linear layer per modality."""

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int, joint: Fusion) -> None:
        super().__init__(widths, classes)
        self.joint = joint
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        fused, _ = self.joint(features)
        return fused, {name: self.own[name](features[name]) for name in self.modalities}

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The modality's classifier, and what is its own in the joint head."""
        yield from self.own[modality].parameters()
        yield from self.joint.head_parameters(modality)


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


class CosineHead(Fusion):
    """``f_m[c] = scale * cos(phi_m, W_m[c])``, no bias; the fused logits are their sum (MMCosine)."""

    exact_unimodal = True
    scale: Tensor

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        self.own = nn.ModuleDict({name: nn.Linear(width, classes, bias=False) for name, width in widths.items()})
        self.register_buffer("scale", torch.tensor(10.0))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        directions = {
            name: functional.normalize(self.own.get_submodule(name).get_parameter("weight")) for name in self.own
        }
        unimodal = {
            name: self.scale * functional.normalize(features[name]) @ directions[name].T for name in self.modalities
        }
        return total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The modality's class directions."""
        return self.own[modality].parameters()


class SharedHead(Fusion):
    """One linear classifier for all modalities, whose logits are mixed in the prediction (MLA).

    Args:
        gate: weights of the mixture: ``entropy`` (softmax over modalities of minus each sample's entropy), ``fixed`` (the buffer
            ``shares``), or ``batch`` (the official code's: one entropy per batch, of a softmax over the batch).
    """

    exact_unimodal = False
    shares: Tensor

    def __init__(self, widths: Mapping[str, int], classes: int, gate: str) -> None:
        super().__init__(widths, classes)
        if len(set(widths.values())) != 1:
            raise UserError(f"a shared head needs features of one width, there are {dict(widths)}")
        self.gate = gate
        self.output = nn.Linear(next(iter(widths.values())), classes)
        self.register_buffer("shares", torch.full((len(widths),), 1.0 / len(widths)))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        unimodal = {name: self.output(features[name]) for name in self.modalities}
        logits = torch.stack(list(unimodal.values()))
        return (self._weights(logits).unsqueeze(2) * logits).sum(dim=0), unimodal

    def _weights(self, logits: Tensor) -> Tensor:
        """``(modalities, batch, classes)`` -> ``(modalities, batch)`` that sum to 1 over modalities."""
        if self.gate == "fixed":
            return self.shares.unsqueeze(1).expand(-1, logits.shape[1])
        if self.gate == "entropy":
            return entropy(logits, dim=2).neg().softmax(dim=0)
        of_batch = entropy(logits, dim=1).sum(dim=1, keepdim=True)
        return of_batch.neg().softmax(dim=0).expand(-1, logits.shape[1])

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """None: the classifier is shared."""
        return iter(())


class BoostedHead(Fusion):
    """One two-layer classifier for all modalities; the fused logits are ``beta`` times their sum (ReconBoost)."""

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        if len(set(widths.values())) != 1:
            raise UserError(f"a shared head needs features of one width, there are {dict(widths)}")
        width = next(iter(widths.values()))
        self.output = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, classes))
        self.beta = nn.Parameter(torch.tensor(1.0))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        unimodal = {name: self.output(features[name]) for name in self.modalities}
        return self.beta * total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """None: the classifier is shared."""
        return iter(())


def build_head(name: str, widths: Mapping[str, int], classes: int) -> Fusion:
    """A new fusion or head.

    Args:
        name: key of ``FUSIONS``, or one of the names above.
        widths: modality -> number of features.
        classes: number of classes.

    Raises:
        UserError: unknown ``name``, or modalities that it cannot join.
    """
    if name.endswith("+own"):
        return OwnHeads(widths, classes, build_fusion(name.removesuffix("+own"), widths, classes))
    kind, _, rest = name.partition(":")
    if kind == "only":
        return OnlyHead(widths, classes, rest)
    kind, _, rest = name.partition("_")
    if kind == "late":
        return LateFusion(widths, classes, rest)
    if kind == "shared":
        return SharedHead(widths, classes, rest)
    if name == "cosine":
        return CosineHead(widths, classes)
    if name == "boosted":
        return BoostedHead(widths, classes)
    return build_fusion(name, widths, classes)


def entropy(logits: Tensor, *, dim: int) -> Tensor:
    """Entropy of ``softmax(logits)`` along ``dim``, in nats."""
    logarithms = logits.log_softmax(dim=dim)
    return -(logarithms.exp() * logarithms).sum(dim=dim)
