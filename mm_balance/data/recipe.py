"""What is done to files before they are stored: every choice by name, in one place. No torch: decoders import it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from mm_balance.config import InputConfig
from mm_balance.errors import UserError

VERSION = "files-2"
CROP_MARGIN = 8 / 7
"""Frames that will be cropped are stored larger by this factor: 256 pixels for 224, the usual pair."""

SOUND, PICTURE = "sound", "image"
"""Kinds of modalities, as ``InputSpec.kind`` has them."""


@dataclass(frozen=True)
class Recipe:
    """How sounds and pictures are decoded. Equal recipes make equal stores of equal files.

    Attributes:
        audio: key of ``AUDIO_RECIPES``.
        clip_seconds: length of every sound.
        audio_fit: ``tile`` or ``pad``.
        resampler: see ``resample_audio``.
        per_sample: whether each sound's features are brought to mean 0 and deviation 1.
        frames_per_second: of stored frames.
        frame_count: frames stored per clip, at most.
        frame_edge: edge of the stored pictures, pixels.
    """

    audio: str
    clip_seconds: float
    audio_fit: str
    resampler: str
    per_sample: bool
    frames_per_second: float
    frame_count: int
    frame_edge: int

    def key(self, kinds: dict[str, str]) -> str:
        """Twelve hexadecimal digits that tell stores apart, for modalities of these kinds."""
        settings = [VERSION, asdict(self), sorted(kinds.items())]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def text(self, kinds: dict[str, str]) -> str:
        """The recipe in one line, for modalities of these kinds."""
        words = {
            SOUND: f"mono, {self.audio}, {self.clip_seconds:g} s ({self.audio_fit}), resampler {self.resampler}"
            + (", z-score of each sample" if self.per_sample else ""),
            PICTURE: f"RGB, squeezed to {self.frame_edge} x {self.frame_edge} (bilinear, antialiased), up to "
            f"{self.frame_count} frame(s) at {self.frames_per_second:g} per second",
        }
        return f"{VERSION}: " + "; ".join(f"{name} {words[kind]}" for name, kind in kinds.items())


def stored_recipe(config: InputConfig, *, moving: bool) -> Recipe:
    """What of the input parameters concerns the store.

    Args:
        config: how files become what the network sees.
        moving: whether there are videos or folders of frames; single pictures need room for one frame only.

    Raises:
        UserError: choices that contradict each other.
    """
    if config.recipe == "embedded":
        raise UserError("recipe=embedded is of digits only; give stft257, fbank128 or logmel64")
    if config.audio_normalization == "audioset" and config.recipe != "fbank128":
        raise UserError(f"audio_normalization=audioset holds constants of recipe=fbank128, not of {config.recipe}")
    # The tolerance keeps 0.1 * 30 at 3.
    frames = max(1, math.floor(config.frames_per_second * config.clip_seconds + 1e-6)) if moving else 1
    return Recipe(
        audio=config.recipe,
        clip_seconds=config.clip_seconds,
        audio_fit=config.audio_fit,
        resampler=config.resampler,
        per_sample=config.audio_normalization == "sample",
        frames_per_second=config.frames_per_second,
        frame_count=frames,
        frame_edge=config.image_size if config.augment == "none" else round(config.image_size * CROP_MARGIN),
    )
