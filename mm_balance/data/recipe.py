"""What is done to files before they are stored: every choice by name, in one place. No torch: decoders import it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True)
class FileOptions:
    """The parameters of these names (see ``mm_balance.config.options``) that decide how files become what a network sees."""

    recipe: str
    clip_seconds: float
    audio_fit: str
    resampler: str
    audio_normalization: str
    image_size: int
    frames: int
    frames_per_second: float
    frame_choice: str
    augment: str
    visual_normalization: str

    def stored(self, *, moving: bool) -> Recipe:
        """What of it concerns the store.

        Args:
            moving: whether there are videos or folders of frames; single pictures need room for one frame only.

        Raises:
            UserError: choices that contradict each other.
        """
        if self.recipe == "embedded":
            raise UserError("recipe=embedded is of digits only; give stft257, fbank128 or logmel64")
        if self.audio_normalization == "audioset" and self.recipe != "fbank128":
            raise UserError(f"audio_normalization=audioset holds constants of recipe=fbank128, not of {self.recipe}")
        # The tolerance keeps 0.1 * 30 at 3.
        frames = max(1, math.floor(self.frames_per_second * self.clip_seconds + 1e-6)) if moving else 1
        return Recipe(
            audio=self.recipe,
            clip_seconds=self.clip_seconds,
            audio_fit=self.audio_fit,
            resampler=self.resampler,
            per_sample=self.audio_normalization == "sample",
            frames_per_second=self.frames_per_second,
            frame_count=frames,
            frame_edge=self.image_size if self.augment == "none" else round(self.image_size * CROP_MARGIN),
        )
