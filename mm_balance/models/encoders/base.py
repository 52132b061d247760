"""The interface of an encoder, and what encoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from mm_balance.input_kinds import IMAGE, INPUT_KINDS, SOUND, VIDEO

PICTURES = (SOUND, IMAGE, VIDEO)
"""Kinds whose samples are pictures for a network: ``(channels, height, width)``, of videos one per frame."""


class Encoder(nn.Module):
    """Base of the encoders of this package: normalized samples of one modality, ``(batch, *spec.shape)`` -> ``(batch, features)``.

    Encoders from outside need not derive from it: any module will do that maps such samples to a vector each. They are built by a
    function of an ``InputSpec``, and derive from this class if a method is to connect them between their stages.

    Attributes:
        kinds: the kinds of inputs it takes.
        features: features per sample.
        stage_widths: channels of the feature maps after each stage; empty = it has no stages.
    """

    kinds: ClassVar[tuple[str, ...]] = tuple(INPUT_KINDS)
    features: int
    stage_widths: tuple[int, ...] = ()

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """Return the stages in order; the last part turns feature maps into features. Their composition equals ``forward``."""
        raise NotImplementedError


def average_over_frames(backbone: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Compute features with ``backbone``; frames are folded into the batch and their features averaged.

    All frames have the same size, so this equals OGM-GE's three-dimensional average over time and space.

    Args:
        backbone: ``(images, channels, height, width)`` -> ``(images, features)``.
        samples: ``(batch, channels, height, width)`` or ``(batch, frames, channels, height, width)``.

    Returns:
        ``(batch, features)``.
    """
    if samples.dim() == 4:
        return backbone(samples)
    features: Tensor = backbone(samples.flatten(0, 1))
    return torch.mean(features.unflatten(0, samples.shape[:2]), dim=1)
