"""MMCosine: normalize features and class weights per modality, so that none dominates by its norm.

Source: Xu et al., MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning, ICASSP 2023,
arXiv 2303.05338; GeWu-Lab/MMCosine_ICASSP23@00ba0a9 (does not run as released). Deviations: prediction uses the cosines, as
training does (the released validation uses an untrained linear head). The optional contrastive term (default weight 0) is omitted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm_balance.methods.base import Method
from mm_balance.methods.options import option
from mm_balance.models import Fusion, HeadSpec
from mm_balance.models.fusion import total_logits


@dataclass(frozen=True)
class MMCosineOptions:
    """Options of MMCosine."""

    scale: float = option(
        10.0, "s: factor from cosine to logit (BalanceBenchmark: 15)", minimum=0.0, exclusive=True,
        source="MMCosine_ICASSP23@00ba0a9", search=(2.0, 40.0, "log"),
    )  # fmt: skip


class CosineHead(Fusion):
    """``f_m[c] = scale * cos(phi_m, W_m[c])``, no bias; the fused logits are their sum (MMCosine).

    Args:
        scale: above 0.
    """

    exact_unimodal = True
    scale: Tensor

    def __init__(self, widths: Mapping[str, int], classes: int, scale: float) -> None:
        super().__init__(widths, classes)
        self.own = nn.ModuleDict({name: nn.Linear(width, classes, bias=False) for name, width in widths.items()})
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the scaled cosines, and the scaled cosines of each modality."""
        directions = {
            name: functional.normalize(self.own.get_submodule(name).get_parameter("weight")) for name in self.own
        }
        unimodal = {
            name: self.scale * functional.normalize(features[name]) @ directions[name].T for name in self.modalities
        }
        return total_logits(unimodal), unimodal

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return the modality's class directions."""
        return self.own[modality].parameters()


class MMCosine(Method):
    """Cosine logits in place of dot products."""

    name = "mmcosine"
    title = "MMCosine"
    citation = "Xu et al., ICASSP 2023, arXiv 2303.05338; GeWu-Lab/MMCosine_ICASSP23@00ba0a9"
    Options = MMCosineOptions
    fusions = ("concat",)

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(CosineHead, {"scale": self.options.scale})
