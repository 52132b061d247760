"""Decoding audio files. The only module that deals with audio formats.

Functions raise ``DecodeError`` with a one-line reason; the caller adds the file and the sample.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from mm_balance.data.features import AudioRecipe
from mm_balance.errors import UserError

SOUND_EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")
VIDEO_EXTENSIONS = (".mp4", ".mpg", ".mpeg", ".avi", ".mkv", ".mov", ".webm", ".flv")
SILENCE = 1e-4
"""A sound with no sample above this (full scale = 1) is silent: 80 dB below full scale."""
SHORTFALL_SECONDS, SHORTFALL_SHARE = 0.5, 0.2
"""A track that ends more than both of these before its stated length is truncated; less is common and harmless."""


class DecodeError(Exception):
    """A file cannot be used; the message is the reason."""


@dataclass(frozen=True)
class SoundFacts:
    """Metadata of a file's sound: ``seconds`` (before fitting), ``rate`` in Hz, ``channels``."""

    seconds: float
    rate: int
    channels: int


def audio_features(
    path: Path, recipe: AudioRecipe, clip_seconds: float, fit: str, resampler: str, normalization: str
) -> tuple[np.ndarray, SoundFacts]:
    """Compute the features of a file's sound.

    Args:
        path: audio file, or video with a sound track.
        recipe: kind of features.
        clip_seconds: clip length; longer sounds are cut, keeping the beginning.
        fit: for shorter sounds: ``tile`` repeats them, ``pad`` appends silence (or empty frames, see ``AudioRecipe``).
        resampler: see ``resample``.
        normalization: ``none``, or ``sample``: mean 0 and standard deviation 1 for each sample
            (fanyunfeng-bit/Modal-Imbalance-PMR@3615e48, data/CREMAD/audio_preprocessing.py).

    Returns:
        ``recipe.shape(clip_seconds)`` float32, and the metadata.

    Raises:
        DecodeError: as ``read_sound_file``, or the sound, or the part that is used, is silent.
        UserError: unknown resampler, or one that is not installed.
    """
    audio, facts = read_sound_file(path)
    if not _audible(audio):
        raise DecodeError(f"silent: no sample above {SILENCE:g} of full scale")
    audio = resample(audio, facts.rate, recipe.rate, resampler)
    if len(audio) == 0:
        raise DecodeError("the sound is shorter than one sample at the target rate")
    samples = recipe.samples(clip_seconds)
    audio = audio[:samples] if fit == "pad" and recipe.pads_features else fit_length(audio, samples, fit)
    if not _audible(audio):
        raise DecodeError(f"silent in the {samples / recipe.rate:g} s that are used (from the beginning)")
    features = recipe.compute(np.ascontiguousarray(audio, dtype=np.float32), clip_seconds)
    if normalization == "sample":
        features = z_score(features)
    return features, facts


def z_score(features: np.ndarray) -> np.ndarray:
    """Normalize a sound's features to mean 0 and standard deviation 1 (constant ones to 0)."""
    return (features - features.mean()) / max(float(features.std()), 1e-6)


def read_sound_file(path: Path) -> tuple[np.ndarray, SoundFacts]:
    """Read the whole sound of a file, averaged over channels: ``(samples,)`` float32 with full scale 1.

    Raises:
        DecodeError: no sound, truncated, empty, or with samples that are not finite.
        OSError: the file cannot be opened.
    """
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        return _read_track(path)
    audio, rate, channels = _read_sound(path.read_bytes())
    return audio, SoundFacts(len(audio) / rate, rate, channels)


def read_sound(content: bytes) -> tuple[np.ndarray, int]:
    """Decode a WAV, FLAC, OGG or MP3 file, averaged over channels.

    Args:
        content: bytes of the whole file.

    Returns:
        ``(samples,)`` float32 with full scale 1, and the sampling rate in Hz.

    Raises:
        DecodeError: not an audio file, truncated, empty, or with samples that are not finite.
    """
    audio, rate, _ = _read_sound(content)
    return audio, rate


def _read_sound(content: bytes) -> tuple[np.ndarray, int, int]:
    if not content:
        raise DecodeError("the file is empty (0 bytes)")
    _check_complete(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            declared = file.frames
            channels = file.read(dtype="float32", always_2d=True)
            rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OverflowError, TypeError) as error:
        raise DecodeError(f"cannot be decoded as sound ({one_line(error)})") from error
    if len(channels) == 0:
        raise DecodeError("the sound has no samples")
    if len(channels) < declared:
        raise DecodeError(f"truncated: {len(channels)} of {declared} samples can be read")
    if not np.isfinite(channels).all():
        raise DecodeError("the sound has NaN or infinite samples")
    audio = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
    return audio, rate, channels.shape[1]


def _check_complete(content: bytes) -> None:
    """Raise DecodeError if the container is cut short: libsndfile reads such files silently."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        position = 12
        while position + 8 <= len(content):
            chunk, size = struct.unpack_from("<4sI", content, position)
            # Writers to a pipe put 0xFFFFFFFF because they do not know the length.
            if chunk == b"data" and size != 0xFFFFFFFF and position + 8 + size > len(content):
                raise DecodeError(f"truncated: {len(content) - position - 8} of {size} bytes of sound are present")
            position += 8 + size + size % 2
    elif content[:4] == b"OggS":
        page = content[content.rfind(b"OggS") :]
        # Byte 5: flags, 4 = end of stream; byte 26: number of segments, whose lengths follow.
        if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            raise DecodeError("truncated: the last page of the OGG file is missing")


def open_container(path: Path) -> Any:
    """Open a video file with PyAV. Raises DecodeError if it is not one, OSError if it cannot be opened."""
    if path.stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)")
    try:
        # Names of streams and tags may be in any encoding; none of them is used.
        return av.open(str(path), metadata_errors="replace")
    except PermissionError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(f"cannot be opened as video ({one_line(error)})") from error


def tracks_of(container: Any) -> str:
    """Describe the tracks of a container for messages: ``1 video, 0 audio``."""
    return f"{len(container.streams.video)} video, {len(container.streams.audio)} audio"


def stated_seconds(container: Any, stream: Any) -> float | None:
    """Return the stated duration of a track, else of its container; None = neither states one."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def check_length(decoded: float, stated: float | None, what: str, broken: str) -> None:
    """Raise DecodeError if a track ends well before its stated duration.

    Args:
        decoded: seconds that could be decoded.
        stated: seconds stated by the file, None = unknown.
        what: ``sound`` or ``video``.
        broken: message of the decoding error, empty = none.
    """
    if stated is not None and stated - decoded > max(SHORTFALL_SECONDS, SHORTFALL_SHARE * stated):
        raise DecodeError(
            f"truncated: {decoded:.2f} of {stated:.2f} s of {what} can be decoded{broken and f' ({broken})'}"
        )


def _read_track(path: Path) -> tuple[np.ndarray, SoundFacts]:
    with open_container(path) as container:
        if not container.streams.audio:
            raise DecodeError(f"no sound track (it has {tracks_of(container)})")
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1  # many files are decoded at once
        parts: list[np.ndarray] = []
        resampler = None
        broken = ""
        try:
            for frame in container.decode(stream):
                # Converts every sample format to planar float32; the rate is kept.
                resampler = resampler or av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
                parts += [item.to_ndarray() for item in resampler.resample(frame)]
        except (av.FFmpegError, ValueError) as error:
            broken = one_line(error)
        if not parts:
            raise DecodeError(f"no sound can be decoded{broken and f' ({broken})'}")
        channels = np.concatenate(parts, axis=1)
        rate = int(stream.codec_context.sample_rate)
        seconds = channels.shape[1] / rate
        check_length(seconds, stated_seconds(container, stream), "sound", broken)
    if not np.isfinite(channels).all():
        raise DecodeError("the sound has NaN or infinite samples")
    return channels.mean(axis=0, dtype=np.float32), SoundFacts(seconds, rate, channels.shape[0])


def resample(audio: np.ndarray, rate: int, target_rate: int, resampler: str = "soxr_hq") -> np.ndarray:
    """Resample a sound.

    Args:
        audio: ``(samples,)`` float32.
        rate: its sampling rate, Hz.
        target_rate: new sampling rate, Hz.
        resampler: ``soxr_hq`` (librosa's default since 0.10), ``soxr_vhq``, ``polyphase``, or ``kaiser_best`` (librosa's
            default before 0.10, which the official codes used; needs the package resampy).

    Returns:
        ``(samples,)`` float32.

    Raises:
        UserError: ``kaiser_best`` without resampy.
    """
    if rate == target_rate:
        return audio
    import librosa  # slow to import and only needed here

    try:
        resampled: np.ndarray = librosa.resample(audio, orig_sr=rate, target_sr=target_rate, res_type=resampler)
    except ModuleNotFoundError as error:
        raise UserError("resampler=kaiser_best needs the package resampy: pip install resampy") from error
    return resampled.astype(np.float32)


def fit_length(audio: np.ndarray, samples: int, how: str = "tile") -> np.ndarray:
    """Cut a sound to ``(samples,)``, keeping the beginning, or extend it by repeating or padding.

    Args:
        audio: ``(any,)`` float32, at least one sample.
        samples: target length.
        how: ``tile`` (GeWu-Lab/OGM-GE_CVPR2022@343dc1d) or ``pad`` (append silence).
    """
    if how == "pad":
        return np.pad(audio[:samples], (0, max(0, samples - len(audio))))
    return np.tile(audio, math.ceil(samples / len(audio)))[:samples]


def _audible(audio: np.ndarray) -> bool:
    return bool(audio.max() >= SILENCE or audio.min() <= -SILENCE)


def one_line(error: Any) -> str:
    """Return an exception's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
