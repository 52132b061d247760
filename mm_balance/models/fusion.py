"""Fusion heads: features of all modalities -> fused logits and unimodal logits.

Late fusions as in OGM-GE (models/fusion_modules.py of GeWu-Lab/OGM-GE_CVPR2022), rewritten for M modalities.
Linear layers keep torch's default initialization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError


class Fusion(nn.Module):
    """Base of all heads.

    Attributes:
        exact_unimodal: whether the fused logits are exactly the sum of the unimodal ones (Eq. 2-3). If not, the unimodal
            logits of a modality are those of the head with the features of all other modalities set to zero.
        uses: modalities whose features the head reads; the others need not be encoded.

    Custom heads derive from this class. They must be defined at module level, and their constructor may take additional keyword
    arguments of primitive types, so that a saved model can refer to them (``HeadSpec``).

    Args:
        widths: modality -> number of features, in the order of the modalities.
        classes: number of classes.
    """

    exact_unimodal: bool = False

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.uses = tuple(widths)
        self.widths = dict(widths)
        self.classes = classes

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute fused and unimodal logits.

        Args:
            features: modality -> ``(batch, width)``.

        Returns:
            Fused logits ``(batch, classes)``; modality -> unimodal logits ``(batch, classes)``.
        """
        raise NotImplementedError

    def alone(self, features: Tensor, modality: str) -> Tensor:
        """Compute the unimodal logits of ``modality`` from its features ``(batch, width)``; no others are needed."""
        others = {name: features.new_zeros(len(features), width) for name, width in self.widths.items()}
        _, unimodal = self(others | {modality: features})
        return unimodal[modality]

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the parameters that belong to ``modality`` alone; may be empty."""
        raise NotImplementedError

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters shared between modalities: all but the ``head_parameters``."""
        owned = {id(parameter) for modality in self.modalities for parameter in self.head_parameters(modality)}
        return (parameter for parameter in self.parameters() if id(parameter) not in owned)

    def warmup_name(self, name: str) -> str:
        """Return the name that parameter ``name`` has in a warm-up's head, which is the plain fusion that the user chose."""
        return name


class ConcatFusion(Fusion):
    """One linear layer on the concatenated features, split by modality (Eq. 2-3).

    ``f_m = W_m phi_m + b / M``, ``f = sum of f_m = W [phi_1; ...; phi_M] + b``. The blocks ``W_m`` and ``b`` are sliced
    from one ``nn.Linear`` over the concatenated width, so that they are initialized like that layer: each entry uniform
    within ``1 / sqrt(sum of widths)``, not within ``1 / sqrt(width)`` of its block.
    """

    exact_unimodal = True

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        joint = nn.Linear(sum(widths.values()), classes)
        blocks = joint.weight.detach().split(list(widths.values()), dim=1)
        self.blocks = nn.ModuleDict({name: nn.Linear(width, classes, bias=False) for name, width in widths.items()})
        for name, block in zip(widths, blocks, strict=True):
            self.blocks[name].weight = nn.Parameter(block.clone())
        self.bias = nn.Parameter(joint.bias.detach().clone())

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the unimodal logits, and the unimodal logits."""
        share = self.bias / len(self.modalities)
        unimodal = {name: self.blocks[name](features[name]) + share for name in self.modalities}
        return total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the block of ``modality``; the bias is shared."""
        return self.blocks[modality].parameters()


class SumFusion(Fusion):
    """One linear layer with its own bias per modality; the fused logits are their sum."""

    exact_unimodal = True

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        self.layers = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the unimodal logits, and the unimodal logits."""
        unimodal = {name: self.layers[name](features[name]) for name in self.modalities}
        return total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the layer of ``modality``; nothing is shared."""
        return self.layers[modality].parameters()


class PairFusion(Fusion):
    """Base of fusions in which the first of two modalities modulates the second, so logits do not decompose exactly.

    Unimodal logits are the fallback described under ``Fusion.exact_unimodal``.

    Raises:
        UserError: not exactly two modalities.
    """

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        if len(widths) != 2:
            raise UserError(
                f"this fusion needs exactly two modalities, there are {len(widths)} ({', '.join(widths)}): "
                "use fusion=concat or fusion=sum"
            )

    def joint_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute logits ``(batch, classes)`` from the features of both modalities, each ``(batch, width)``."""
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the joint logits, and those with the other modality's features set to zero."""
        first, second = (features[name] for name in self.modalities)
        alone = (
            self.joint_logits(first, torch.zeros_like(second)),
            self.joint_logits(torch.zeros_like(first), second),
        )
        return self.joint_logits(first, second), dict(zip(self.modalities, alone, strict=True))


class FilmFusion(PairFusion):
    """FiLM (Perez et al. 2018, arXiv 1709.07871): the first modality scales and shifts the features of the second.

    ``[gamma; beta] = W phi_1 + b``, logits of ``gamma * phi_2 + beta`` (plain gamma, not 1 + gamma, as in OGM-GE).
    """

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        first, second = widths.values()
        self.modulation = nn.Linear(first, 2 * second)
        self.output = nn.Linear(second, classes)

    def joint_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the logits of the modulated second features, all ``(batch, ...)``."""
        gamma, beta = self.modulation(first).chunk(2, dim=1)
        return self.output(gamma * second + beta)

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the modulation layer for the first modality, nothing for the second; the output layer is shared."""
        return self.modulation.parameters() if modality == self.modalities[0] else iter(())


class GatedFusion(PairFusion):
    """Gated fusion (Kiela et al. 2018, arXiv 1802.02892): the first modality gates the second.

    ``h = sigmoid(W_1 phi_1 + b_1) * (W_2 phi_2 + b_2)``, logits of ``h``; ``h`` is as wide as ``phi_2``.
    """

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        hidden = list(widths.values())[1]
        self.layers = nn.ModuleDict({name: nn.Linear(width, hidden) for name, width in widths.items()})
        self.output = nn.Linear(hidden, classes)

    def joint_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the logits of the gated second features."""
        gating, gated = self.modalities
        return self.output(torch.sigmoid(self.layers[gating](first)) * self.layers[gated](second))

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the layer of ``modality``; the output layer is shared."""
        return self.layers[modality].parameters()


def total_logits(unimodal: Mapping[str, Tensor]) -> Tensor:
    """Sum over modalities of ``(batch, classes)`` logits."""
    return torch.stack(list(unimodal.values())).sum(dim=0)


FUSIONS: dict[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "film": FilmFusion,
    "gated": GatedFusion,
}


def find_fusion(name: str) -> type[Fusion]:
    """Return the class of the fusion ``name``. Raises UserError if it is unknown."""
    if name not in FUSIONS:
        raise UserError(f"fusion={name} is not known; give one of {', '.join(FUSIONS)}")
    return FUSIONS[name]


def build_fusion(name: str, widths: Mapping[str, int], classes: int) -> Fusion:
    """Build a fusion head.

    Args:
        name: key of ``FUSIONS``.
        widths: modality -> number of features.
        classes: number of classes.

    Raises:
        UserError: unknown ``name``, or a number of modalities that the fusion does not support.
    """
    return find_fusion(name)(widths, classes)
