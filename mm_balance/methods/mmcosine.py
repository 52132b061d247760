"""MMCosine: features and class weights of every modality at length 1, so that none wins by its norm.

Source: Xu et al., MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning, ICASSP 2023,
arXiv 2303.05338; GeWu-Lab/MMCosine_ICASSP23@00ba0a9 (as released it does not start). Deviations: prediction uses the cosines, as
training does; the released validation reads an untrained linear head. The optional contrastive term (weight 0 by default) is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mm_balance.methods.base import Method
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork


@dataclass(frozen=True)
class MMCosineOptions:
    """See the fields' help."""

    scale: float = option(
        10.0, "s: logits are this times a cosine (BalanceBenchmark: 15)", minimum=0.0, exclusive=True,
        source="MMCosine_ICASSP23@00ba0a9", search=(2.0, 40.0, "log"),
    )  # fmt: skip


class MMCosine(Method):
    """Cosines in place of products."""

    name = "mmcosine"
    title = "MMCosine"
    citation = "Xu et al., ICASSP 2023, arXiv 2303.05338; GeWu-Lab/MMCosine_ICASSP23@00ba0a9"
    Options = MMCosineOptions
    heads: ClassVar[Mapping[str, str]] = {"concat": "cosine"}

    def prepare(self, model: MultimodalNetwork) -> None:
        model.fusion.get_buffer("scale").fill_(self.options.scale)
