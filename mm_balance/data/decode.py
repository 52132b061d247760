"""Bytes of a file -> tensors. The only place that knows about sound and image formats.

Every function raises ``Undecodable`` with a reason that fits on one line; the caller adds which file and which row.
"""

from __future__ import annotations

import io
import math
import struct
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image, ImageOps
from torch import Tensor

SOUND_EXTENSIONS = (".wav", ".flac", ".ogg")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg")
VIDEO_EXTENSIONS = (".mp4", ".mpg", ".mpeg", ".avi", ".mkv", ".mov", ".webm", ".flv")
SILENCE = 1e-4
"""A sound with no sample above this (full scale = 1) is silent: 80 dB below full scale."""
POWER_FLOOR = 1e-6
"""Added to the power of a band before the logarithm, so that digital silence is finite (and 60 dB below full scale)."""


class Undecodable(Exception):
    """A file that cannot be used; the message is the reason."""


def read_sound(content: bytes) -> tuple[np.ndarray, int]:
    """All samples of a WAV, FLAC or OGG file, its channels averaged.

    Args:
        content: the bytes of the whole file.

    Returns:
        ``(samples,)`` float32 with full scale 1, and the sampling rate in Hz.

    Raises:
        Undecodable: not a sound, truncated, empty, or with samples that are not finite.
    """
    _check_whole(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            declared = file.frames
            channels = file.read(dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OverflowError, TypeError) as error:
        raise Undecodable(f"cannot be decoded as sound ({_one_line(error)})") from error
    if len(channels) == 0:
        raise Undecodable("the sound holds no samples")
    if len(channels) < declared:
        raise Undecodable(f"truncated: {len(channels)} of {declared} samples can be read")
    if not np.isfinite(channels).all():
        raise Undecodable("the sound holds NaN or infinite samples")
    return channels.mean(axis=1), rate


def _check_whole(content: bytes) -> None:
    """Raise where the container is cut short: libsndfile reads such files without a word."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        position = 12
        while position + 8 <= len(content):
            chunk, size = struct.unpack_from("<4sI", content, position)
            # 0xFFFFFFFF is what writers to a pipe put where the length is not known.
            if chunk == b"data" and size != 0xFFFFFFFF and position + 8 + size > len(content):
                raise Undecodable(f"truncated: {len(content) - position - 8} of {size} bytes of sound are there")
            position += 8 + size + size % 2
    elif content[:4] == b"OggS":
        page = content[content.rfind(b"OggS") :]
        # Byte 5: flags, 4 = end of stream; byte 26: number of segments, whose lengths follow.
        if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            raise Undecodable("truncated: the last page of the OGG file is missing")


def resample(audio: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """``(samples,)`` at ``rate`` Hz -> ``(samples,)`` float32 at ``target_rate`` Hz (soxr, high quality)."""
    if rate == target_rate:
        return audio
    import librosa  # slow to import, and only needed here

    resampled: np.ndarray = librosa.resample(audio, orig_sr=rate, target_sr=target_rate, res_type="soxr_hq")
    return resampled.astype(np.float32)


def fit_length(audio: np.ndarray, samples: int) -> np.ndarray:
    """Repeat a sound that is too short and cut one that is too long (its beginning stays): ``(samples,)``."""
    return np.tile(audio, math.ceil(samples / len(audio)))[:samples]


def decode_sound(content: bytes, *, rate: int, samples: int) -> Tensor:
    """A sound file as one channel of fixed rate and length.

    Args:
        content: the bytes of a WAV, FLAC or OGG file.
        rate: wanted sampling rate in Hz.
        samples: wanted length; shorter sounds are repeated, longer ones cut.

    Returns:
        ``(samples,)`` float32, full scale 1.

    Raises:
        Undecodable: as ``read_sound``, and where the part that is used is silent.
    """
    audio, own_rate = read_sound(content)
    if not _audible(audio):
        raise Undecodable(f"silent: no sample above {SILENCE:g} of full scale")
    audio = resample(audio, own_rate, rate)
    if len(audio) == 0:
        raise Undecodable("the sound is shorter than one sample at the wanted rate")
    audio = fit_length(audio, samples)
    if not _audible(audio):
        raise Undecodable(f"silent in the {samples / rate:g} s that are used (the beginning)")
    return torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))


def _audible(audio: np.ndarray) -> bool:
    return bool(np.abs(audio).max() >= SILENCE)


def decode_image(content: bytes, *, size: int) -> Tensor:
    """A PNG or JPEG file as an RGB square.

    The whole picture is resized (bilinear with antialiasing), so a picture that is not square is squeezed, not cropped.
    Its EXIF orientation is respected; transparency is dropped; 16-bit grey is brought to 8 bits.

    Args:
        content: the bytes of the file.
        size: edge of the result in pixels.

    Returns:
        ``(3, size, size)`` uint8.

    Raises:
        Undecodable: not a PNG or JPEG, truncated, or suspiciously large (a decompression bomb).
    """
    if content[:4] == b"\x89PNG" and b"IEND" not in content:
        # Pillow does not miss the end of a file whose last pixels happen to be there.
        raise Undecodable("cannot be decoded as PNG or JPEG (truncated: the end of the PNG is missing)")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise Undecodable(f"cannot be decoded as PNG or JPEG ({_one_line(error)})") from error
    if image.mode.startswith("I"):  # converting would clip 16-bit values at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def read_gray_image(content: bytes) -> np.ndarray:
    """The bytes of an image file as ``(height, width)`` uint8, pixel by pixel."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert("L"))


@lru_cache(maxsize=8)
def mel_filter_bank(rate: int, window: int, bands: int) -> Tensor:
    """Triangular filters, evenly spaced on the HTK mel scale, that average the power under them (each row sums to 1).

    Written out because importing librosa costs more than a second, and the embedded set is loaded by every run.

    Args:
        rate: sampling rate in Hz; the filters span 0 to ``rate / 2``.
        window: length of the Fourier transform in samples.
        bands: number of filters.

    Returns:
        ``(bands, window // 2 + 1)`` float32.

    Raises:
        ValueError: so many bands for so short a window that a filter falls between two frequencies.
    """
    top = 2595.0 * math.log10(1.0 + rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, bands + 2) / 2595.0) - 1.0)
    frequencies = np.linspace(0.0, rate / 2, window // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    total = triangles.sum(axis=1, keepdims=True)
    if not total.all():
        raise ValueError(f"{bands} mel bands are too many for a window of {window} samples at {rate} Hz")
    return torch.from_numpy((triangles / total).astype(np.float32))


def log_mel(audio: Tensor, *, rate: int, window: int, hop: int, bands: int) -> Tensor:
    """Logarithmic mel spectrograms.

    Args:
        audio: ``(sounds, samples)`` float32; frames are centred on sample 0, ``hop``, ...; zeros beyond both ends.
        rate: sampling rate in Hz.
        window: samples per frame (periodic Hann window).
        hop: samples between frames.
        bands: mel bands.

    Returns:
        ``(sounds, 1, bands, frames)`` float32: natural logarithm of the power in each band, where white noise of
        variance 1 has a mean power of 1; ``POWER_FLOOR`` is added first. ``frames = 1 + samples // hop``.
    """
    taper = torch.hann_window(window)
    spectrum = torch.stft(audio, window, hop, window=taper, center=True, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square_().div_(taper.square().sum())
    return (mel_filter_bank(rate, window, bands) @ power).add_(POWER_FLOOR).log_().unsqueeze(1)


def _one_line(error: Any) -> str:
    return " ".join(str(error).split()) or type(error).__name__
