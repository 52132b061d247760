"""Samples as small pictures and sounds: frames, spectrograms, sound as Opus, to be embedded in a page."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from matplotlib import colormaps
from PIL import Image

from mm_balance.data.sound import resample

HEIGHT = 144
"""Largest height of a frame, pixels; the page shows it at half of that, or whole."""
QUALITY = 80
"""Of WebP, for colored frames."""
MOST_FRAMES = 4
RATE = 16000
"""Sampling rate of an embedded sound, Hz: what Opus calls wideband."""
BIT_RATE = 16000
"""Bits per second of an embedded sound: speech remains clear."""
MOST_SECONDS = 10.0
"""A longer sound is cut."""
PALETTE = (255 * colormaps["cividis"](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Media:
    """What can be seen and heard of one sample.

    Attributes:
        pictures: modality -> PNG or WebP: frames of images, or the spectrogram of a sound.
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


def _encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def opus(sound: np.ndarray, rate: int) -> bytes:
    """Encode a sound as Opus in an Ogg file, at most ``MOST_SECONDS`` of it.

    Args:
        sound: ``(samples,)`` float32, full scale 1.
        rate: its sampling rate, Hz.
    """
    sound = sound[: round(MOST_SECONDS * rate)]
    sound = np.clip(sound if rate == RATE else resample(sound, rate, RATE), -1.0, 1.0)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray((32767 * sound).round().astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()
