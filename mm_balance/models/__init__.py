"""Late-fusion networks: one encoder per modality and a fusion head that also returns unimodal predictions."""

from mm_balance.models.encoders import ENCODERS, Encoder, build_encoder
from mm_balance.models.fusion import FUSIONS, Fusion, build_fusion
from mm_balance.models.head_spec import HeadSpec
from mm_balance.models.heads import LateFusion, OwnHeads
from mm_balance.models.network import MultimodalNetwork

__all__ = [
    "ENCODERS",
    "FUSIONS",
    "Encoder",
    "Fusion",
    "HeadSpec",
    "LateFusion",
    "MultimodalNetwork",
    "OwnHeads",
    "build_encoder",
    "build_fusion",
]
