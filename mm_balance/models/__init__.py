"""Late-fusion networks: one encoder per modality and a fusion head that also returns unimodal predictions."""

from mm_balance.models.encoders import Encoder, EncoderSpec, choose_encoders, find_encoder, source_digest
from mm_balance.models.fusion import FUSIONS, Fusion, build_fusion
from mm_balance.models.head_spec import HeadSpec
from mm_balance.models.heads import LateFusion, OwnHeads
from mm_balance.models.network import MultimodalNetwork

__all__ = [
    "FUSIONS",
    "Encoder",
    "EncoderSpec",
    "Fusion",
    "HeadSpec",
    "LateFusion",
    "MultimodalNetwork",
    "OwnHeads",
    "build_fusion",
    "choose_encoders",
    "find_encoder",
    "source_digest",
]
