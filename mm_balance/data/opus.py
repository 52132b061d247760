"""Sounds as small files: Opus in an Ogg container."""

from __future__ import annotations

import io

import av
import numpy as np

from mm_balance.data.sound import resample

RATE = 16000
"""Sampling rate of an embedded sound, Hz: what Opus calls wideband."""
BIT_RATE = 16000
"""Bits per second of an embedded sound: speech remains clear."""
MOST_SECONDS = 10.0
"""A longer sound is cut."""


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
