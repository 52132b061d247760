"""Kinds of network inputs, and what follows from a kind. Torch-free: decoding workers import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SOUND, IMAGE, VIDEO, VECTOR, SEQUENCE = "sound", "image", "video", "vector", "sequence"


@dataclass(frozen=True)
class InputKind:
    """A kind of input.

    Attributes:
        name: value of ``InputSpec.kind``.
        dimensions: what the dimensions of a sample are.
        channels: the dimension that has one mean and one standard deviation per entry, counted from the end.
        encoder: encoder of a modality of this kind that cannot have the one chosen for all.
    """

    name: str
    dimensions: tuple[str, ...]
    channels: int
    encoder: str

    def shape_text(self) -> str:
        """Return the dimensions in words, ``(channels, height, width)``."""
        return f"({', '.join(self.dimensions)})"


_KINDS = (
    InputKind(SOUND, ("channels", "frequencies", "time steps"), -3, "resnet18"),
    InputKind(IMAGE, ("channels", "height", "width"), -3, "resnet18"),
    InputKind(VIDEO, ("frames", "channels", "height", "width"), -3, "resnet18"),
    InputKind(VECTOR, ("features",), -1, "mlp"),
    InputKind(SEQUENCE, ("steps", "features"), -1, "transformer"),
)
INPUT_KINDS: Mapping[str, InputKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Name -> kind. Steps of a ``sequence`` whose values are all zero are padding: the sequence ended before."""
