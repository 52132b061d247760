"""Decoding recipes: all choices made before clips are stored. Decoding workers import this module, so it avoids torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mm_balance.config import InputConfig
from mm_balance.errors import UserError
from mm_balance.input_kinds import IMAGE, SEQUENCE, SOUND, VECTOR

VERSION = "files-2"
CROP_MARGIN = 8 / 7
"""Frames to be cropped are stored larger by this factor: 256 pixels for 224, the usual pair."""


@dataclass(frozen=True)
class Recipe:
    """How sounds and images are decoded. Equal recipes and equal files give equal stores.

    Attributes:
        audio: key of ``AUDIO_RECIPES``.
        clip_seconds: length of every sound, seconds.
        audio_fit: ``tile`` or ``pad``.
        resampler: see ``resample`` in ``mm_balance.data.sound``.
        per_sample: whether the features of each sound are normalized to mean 0 and standard deviation 1.
        frames_per_second: rate of the stored frames.
        frame_count: maximum number of frames stored per clip.
        frame_edge: edge length of the stored frames, pixels.
        shapes: modality -> shape of its arrays, ``(features,)`` or ``(steps, features)``; of vectors and sequences only.
    """

    audio: str
    clip_seconds: float
    audio_fit: str
    resampler: str
    per_sample: bool
    frames_per_second: float
    frame_count: int
    frame_edge: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # From JSON they come as lists.
        object.__setattr__(self, "shapes", {name: tuple(shape) for name, shape in self.shapes.items()})

    def settings(self) -> dict[str, Any]:
        """Return what identifies it, as JSON has it. Without arrays it is what it was before there were any: stores stay valid."""
        settings = asdict(self)
        shapes = {name: list(shape) for name, shape in settings.pop("shapes").items()}
        return settings | ({"shapes": shapes} if shapes else {})

    def key(self, kinds: dict[str, str]) -> str:
        """Return twelve hexadecimal digits that identify stores with modalities of these kinds."""
        settings = [VERSION, self.settings(), sorted(kinds.items())]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def text(self, kinds: dict[str, str]) -> str:
        """Describe the recipe in one line, for modalities of these kinds. Part of the data digest: do not reword."""
        descriptions = {
            SOUND: f"mono, {self.audio}, {self.clip_seconds:g} s ({self.audio_fit}), resampler {self.resampler}"
            + (", z-score of each sample" if self.per_sample else ""),
            IMAGE: f"RGB, squeezed to {self.frame_edge} x {self.frame_edge} (bilinear, antialiased), up to "
            f"{self.frame_count} frame(s) at {self.frames_per_second:g} per second",
        }
        described = {
            name: self._array_text(name) if name in self.shapes else descriptions[kinds[name]] for name in kinds
        }
        return f"{VERSION}: " + "; ".join(f"{name} {text}" for name, text in described.items())

    def _array_text(self, modality: str) -> str:
        *steps, features = self.shapes[modality]
        if not steps:
            return f"{VECTOR} of {features} features, float32"
        return f"{SEQUENCE} of {steps[0]} steps (longer ones cut, shorter ones padded with zeros) of {features} features, float32"


def stored_recipe(
    config: InputConfig, *, has_video: bool, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Recipe:
    """Return the recipe of the store for these input parameters.

    Args:
        config: how files become network inputs.
        has_video: whether there are videos or folders of frames; single images need only one stored frame.
        shapes: modality -> shape of its stored arrays, of vectors and sequences.

    Raises:
        UserError: choices that contradict each other.
    """
    if config.recipe == "embedded":
        raise UserError("recipe=embedded is for digits only; use stft257, fbank128 or logmel64")
    if config.audio_normalization == "audioset" and config.recipe != "fbank128":
        raise UserError(f"audio_normalization=audioset has constants for recipe=fbank128 only, not for {config.recipe}")
    # The tolerance keeps 0.1 * 30 at 3 despite rounding.
    frames = max(1, math.floor(config.frames_per_second * config.clip_seconds + 1e-6)) if has_video else 1
    return Recipe(
        audio=config.recipe,
        clip_seconds=config.clip_seconds,
        audio_fit=config.audio_fit,
        resampler=config.resampler,
        per_sample=config.audio_normalization == "sample",
        frames_per_second=config.frames_per_second,
        frame_count=frames,
        frame_edge=config.image_size if config.augment == "none" else round(config.image_size * CROP_MARGIN),
        shapes=dict(shapes or {}),
    )
