"""An example of what a model takes: a short made-up sound, picture or array, as text that JSON can hold."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
from PIL import Image

from mm_balance.data.digits import RATE as DIGITS_RATE
from mm_balance.input_kinds import SEQUENCE, SOUND, VECTOR
from mm_balance.serving.recipes import ARRAYS, DIGITS, ModalityRecipe

RATE = 16_000
SECONDS = 0.5
EDGE = 36


def example_of(recipe: ModalityRecipe) -> str | None:
    """Return a file as ``data:...;base64,...``: a tone, a gray ramp, rising numbers; None for a model that takes arrays only."""
    if recipe.made == ARRAYS:
        return None
    if recipe.kind == SOUND:
        return _text("audio/wav", _rising_tone(DIGITS_RATE if recipe.made == DIGITS else RATE))
    if recipe.kind in (VECTOR, SEQUENCE):
        return _text("application/octet-stream", _rising_numbers(recipe.shape))
    return _text("image/png", _ramp())


def _text(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _rising_tone(rate: int) -> bytes:
    time = np.arange(round(SECONDS * rate)) / rate
    samples = (8000 * np.sin(2 * np.pi * (300 + 1000 * time) * time)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def _rising_numbers(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.linspace(0, 1, int(np.prod(shape))).reshape(shape).astype(np.float32))
    return file.getvalue()


def _ramp() -> bytes:
    file = io.BytesIO()
    pixels = np.linspace(0, 255, EDGE * EDGE).reshape(EDGE, EDGE).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
