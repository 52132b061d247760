"""Encoders: samples of one modality -> features."""

from mm_balance.models.encoders.base import Encoder, average_over_frames
from mm_balance.models.encoders.spec import EncoderSpec, choose_encoders, find_encoder
from mm_balance.models.encoders.weights import LoadedWeights, load_weights, source_digest

__all__ = [
    "Encoder",
    "EncoderSpec",
    "LoadedWeights",
    "average_over_frames",
    "choose_encoders",
    "find_encoder",
    "load_weights",
    "source_digest",
]
