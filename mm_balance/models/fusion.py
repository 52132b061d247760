"""Fusion heads: features of all modalities -> fused logits, and the logits of each modality alone.

Late fusions as in OGM-GE (models/fusion_modules.py of GeWu-Lab/OGM-GE_CVPR2022), written anew for M modalities.
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
        exact_unimodal: whether the fused logits are exactly the sum of the unimodal ones (Eq. 2-3). Where they are
            not, the unimodal logits of a modality are the head's with every other modality's features set to zero.
        uses: modalities whose features it reads; the others need not be encoded.

    A head of one's own derives from it. It stands at the top of a module, and its constructor takes, beside these, keyword arguments
    of primitives: so a saved model can name it (``HeadSpec``).

    Args:
        widths: modality -> number of features; the order is that of the mapping.
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
        """Logits.

        Args:
            features: modality -> ``(batch, width)``.

        Returns:
            Fused logits ``(batch, classes)``; modality -> unimodal logits ``(batch, classes)``.
        """
        raise NotImplementedError

    def alone(self, features: Tensor, modality: str) -> Tensor:
        """Unimodal logits of ``modality`` from its features ``(batch, width)``, where no other modality was encoded."""
        others = {name: features.new_zeros(len(features), width) for name, width in self.widths.items()}
        _, unimodal = self(others | {modality: features})
        return unimodal[modality]

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The parameters that belong to ``modality`` alone; none for some."""
        raise NotImplementedError

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that belong to no single modality: all but the ``head_parameters``."""
        owned = {id(parameter) for modality in self.modalities for parameter in self.head_parameters(modality)}
        return (parameter for parameter in self.parameters() if id(parameter) not in owned)

    def warmup_name(self, name: str) -> str:
        """What a warm-up's head, which is the fusion that the user chose, calls the parameter that this head calls ``name``."""
        return name


class ConcatFusion(Fusion):
    """One linear layer on the concatenated features, split by modality (Eq. 2-3).

    ``f_m = W_m phi_m + b / M``, ``f = sum of f_m = W [phi_1; ...; phi_M] + b``. The blocks ``W_m`` and ``b`` are cut
    from one ``nn.Linear`` over the concatenated width, so that they start as that layer would: each entry uniform
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
        """See ``Fusion.forward``."""
        share = self.bias / len(self.modalities)
        unimodal = {name: self.blocks[name](features[name]) + share for name in self.modalities}
        return total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The block of ``modality``; the bias is shared."""
        return self.blocks[modality].parameters()


class SumFusion(Fusion):
    """One linear layer with its own bias per modality; the fused logits are their sum."""

    exact_unimodal = True

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        self.layers = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
        unimodal = {name: self.layers[name](features[name]) for name in self.modalities}
        return total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The layer of ``modality``; nothing is shared."""
        return self.layers[modality].parameters()


class PairFusion(Fusion):
    """Base of the fusions in which one of two modalities acts on the other, so that logits do not split exactly.

    Unimodal logits are the fallback that ``Fusion.exact_unimodal`` describes. The first modality acts on the second.

    Raises:
        UserError: not exactly two modalities.
    """

    exact_unimodal = False

    def __init__(self, widths: Mapping[str, int], classes: int) -> None:
        super().__init__(widths, classes)
        if len(widths) != 2:
            raise UserError(
                f"this fusion needs exactly two modalities, there are {len(widths)} ({', '.join(widths)}): "
                "take fusion=concat or fusion=sum"
            )

    def joint_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` from the features of both modalities, each ``(batch, width)``."""
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Fusion.forward``."""
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
        """See ``PairFusion.joint_logits``."""
        gamma, beta = self.modulation(first).chunk(2, dim=1)
        return self.output(gamma * second + beta)

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The modulation for the first modality, nothing for the second; the output layer is shared."""
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
        """See ``PairFusion.joint_logits``."""
        gating, gated = self.modalities
        return self.output(torch.sigmoid(self.layers[gating](first)) * self.layers[gated](second))

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The layer of ``modality``; the output layer is shared."""
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
    """The class of the fusion called ``name``. Raises UserError for an unknown one."""
    if name not in FUSIONS:
        raise UserError(f"fusion={name} is not known; give one of {', '.join(FUSIONS)}")
    return FUSIONS[name]


def build_fusion(name: str, widths: Mapping[str, int], classes: int) -> Fusion:
    """A new fusion head.

    Args:
        name: key of ``FUSIONS``.
        widths: modality -> number of features.
        classes: number of classes.

    Raises:
        UserError: unknown ``name``, or a number of modalities that the fusion cannot join.
    """
    return find_fusion(name)(widths, classes)
