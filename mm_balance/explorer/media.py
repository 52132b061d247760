"""Samples as small pictures, frames and spectrograms, to be embedded in a page beside their sounds."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from mm_balance.figures import palette

HEIGHT = 144
"""Largest height of a frame, pixels; the page shows it at half of that, or whole."""
QUALITY = 80
"""Of WebP, for colored frames."""
MOST_FRAMES = 4
STRIPS = (2 * HEIGHT, HEIGHT)
"""Width and height of the picture of a vector or sequence, pixels."""
MOST_DEVIATIONS = 3.0
"""Standard deviations from the mean at which its colors end."""
PALETTE = palette("cividis")


@dataclass(frozen=True)
class Media:
    """What can be seen and heard of one sample.

    Attributes:
        pictures: modality -> PNG or WebP: frames of images, the spectrogram of a sound, the values of a vector or sequence.
        sounds: modality -> Opus in an Ogg file.
        files: modality -> path of the original file, relative to the folder of the data set.
    """

    pictures: dict[str, bytes] = field(default_factory=dict)
    sounds: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def frames_picture(frames: np.ndarray) -> bytes:
    """Draw up to ``MOST_FRAMES`` frames, evenly chosen, side by side: gray ones as PNG, colored ones as WebP, at most ``HEIGHT`` high.

    Args:
        frames: ``(frames, height, width, channels)`` uint8, one channel (gray) or three (RGB).
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().astype(int))
    strip = np.concatenate(list(frames[chosen]), axis=1)
    gray = strip.shape[2] == 1
    image = Image.fromarray(strip[:, :, 0] if gray else strip)
    if image.height > HEIGHT:
        image = image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS)
    return _encoded(image, "png", optimize=True) if gray else _encoded(image, "webp", quality=QUALITY)


def spectrogram_png(values: np.ndarray) -> bytes:
    """Draw a spectrogram, from its smallest to its largest value; a constant one becomes dark.

    Args:
        values: ``(bins, times)`` finite numbers, low frequencies first.
    """
    low, high = float(values.min()), float(values.max())
    scaled = np.zeros(values.shape) if high == low else (values - low) / (high - low)
    image = Image.fromarray((255 * scaled[::-1]).round().astype(np.uint8))
    image.putpalette(PALETTE)
    return _encoded(image, "png", optimize=True)


def features_png(values: np.ndarray) -> bytes:
    """Draw a vector as a strip, or a sequence as a strip per feature: dark = far below the training mean, light = far above.

    Args:
        values: ``(features,)`` or ``(steps, features)``, normalized by mean and standard deviation of each feature.
    """
    strips = values[None] if values.ndim == 1 else values.T
    scaled = (np.clip(strips, -MOST_DEVIATIONS, MOST_DEVIATIONS) / MOST_DEVIATIONS + 1) / 2
    # Averages of neighbors where there are more than pixels, else whole blocks.
    image = Image.fromarray((255 * scaled).round().astype(np.uint8)).resize(STRIPS, Image.Resampling.BOX)
    image.putpalette(PALETTE)
    return _encoded(image, "png", optimize=True)


def _encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()
