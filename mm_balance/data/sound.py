"""Decoding audio files. The only module that deals with audio formats.

Functions raise ``DecodeError`` with a one-line reason; the caller adds the file and the sample.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile

from mm_balance.data.containers import check_complete
from mm_balance.data.features import AudioRecipe
from mm_balance.data.files import DecodeError, open_regular
from mm_balance.data.memory import memory_errors_named
from mm_balance.errors import UserError, reason

SOUND_EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")
VIDEO_EXTENSIONS = (".mp4", ".mpg", ".mpeg", ".avi", ".mkv", ".mov", ".webm", ".flv")
SILENCE = 1e-4
"""A sound with no sample above this (full scale = 1) is silent: 80 dB below full scale."""
SHORTFALL_SECONDS, SHORTFALL_SHARE = 0.5, 0.2
"""A track that ends more than both of these before its stated length is truncated; less is common and harmless: codecs have delays,
and the tracks of a file need not be of equal length. A shorter cut is found if the container states its size."""
RATES = (1_000, 1_000_000)
"""Sampling rates that a sound can have, Hz. A rate of 1 Hz in a damaged header would have the resampler make hours of sound."""
RESAMPLER_MARGIN = 2.0
"""Seconds that are resampled beyond the part that is used. What follows does not change a single bit of that part."""
BLOCK = 1 << 20
"""Values (samples x channels) that are decoded at a time. Headers are not believed: a damaged one may declare 2^35 samples."""
UNKNOWN_SAMPLES = (1 << 63) - 1
"""What libsndfile says of a file that was written to a pipe and states no length."""
FRAME_PIXELS = 40_000_000
"""Most pixels of a video's frame (8K has 33 million). A decoder keeps up to 17 frames of 1.5 bytes a pixel: 1 GB."""

DECODER_LIMITS = {"max_pixels": str(FRAME_PIXELS)}
"""FFmpeg's own check, for frames that are larger than the header says."""


@dataclass(frozen=True)
class SoundFacts:
    """Metadata of a file's sound.

    Attributes:
        seconds: length of the whole sound.
        rate: sampling rate, Hz.
        channels: number of channels.
        peak: largest absolute value of the whole sound, averaged over channels; full scale is 1.
    """

    seconds: float
    rate: int
    channels: int
    peak: float


class _Beginning:
    """The first samples of a sound, and what the checks need of the rest.

    Attributes:
        samples: number of samples so far.
        peak: largest absolute value so far.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._parts: list[np.ndarray] = []
        self.samples = 0
        self.peak = 0.0

    def add(self, audio: np.ndarray) -> None:
        """Add ``(any,)`` float32, at least one sample. Raises DecodeError for samples that are not finite."""
        low, high = float(audio.min()), float(audio.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DecodeError("the sound has NaN or infinite samples")
        self.peak = max(self.peak, -low, high)
        if self.samples < self._keep:
            self._parts.append(audio[: math.ceil(min(len(audio), self._keep - self.samples))])
        self.samples += len(audio)

    def audio(self) -> np.ndarray:
        """Return the kept samples."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)


@memory_errors_named()
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
    audio, facts = read_sound_file(path, seconds=clip_seconds + RESAMPLER_MARGIN)
    if np.float32(facts.peak) < SILENCE:
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


@memory_errors_named()
def read_sound_file(path: Path, *, seconds: float = math.inf) -> tuple[np.ndarray, SoundFacts]:
    """Read the beginning of a file's sound, averaged over channels. The rest is decoded and checked, but not kept.

    Args:
        path: audio file, or video with a sound track.
        seconds: how much is kept; by default all of it.

    Returns:
        ``(samples,)`` float32 with full scale 1, and the metadata of the whole sound.

    Raises:
        DecodeError: not a regular file, no sound, truncated, empty, a sampling rate that no sound has, samples that are not
            finite, or not enough memory.
        OSError: the file cannot be opened.
    """
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        return _read_track(path, seconds)
    with open_regular(path) as file:
        return _read_sound(file, seconds)


@memory_errors_named()
def read_sound(content: bytes) -> tuple[np.ndarray, int]:
    """Decode a WAV, FLAC, OGG or MP3 file, averaged over channels.

    Args:
        content: bytes of the whole file.

    Returns:
        ``(samples,)`` float32 with full scale 1, and the sampling rate in Hz.

    Raises:
        DecodeError: not an audio file, truncated, empty, or with samples that are not finite.
    """
    audio, facts = _read_sound(io.BytesIO(content), math.inf)
    return audio, facts.rate


def _read_sound(file: BinaryIO, seconds: float) -> tuple[np.ndarray, SoundFacts]:
    if file.seek(0, io.SEEK_END) == 0:
        raise DecodeError("the file is empty (0 bytes)")
    check_complete(file)
    try:
        with _Stream(file) as sound:
            declared, rate, count = sound.frames, sound.samplerate, sound.channels
            _check_rate(rate)
            beginning = _Beginning(seconds * rate)
            block = max(1, min(declared, BLOCK // count))
            while len(channels := sound.read(block, dtype="float32", always_2d=True)):
                beginning.add(channels[:, 0] if count == 1 else channels.mean(axis=1))
    except (soundfile.SoundFileError, RuntimeError, OverflowError, TypeError) as error:
        raise DecodeError(f"cannot be decoded as sound ({reason(error)})") from error
    if beginning.samples == 0:
        raise DecodeError("the sound has no samples")
    if beginning.samples < declared != UNKNOWN_SAMPLES:
        raise DecodeError(f"truncated: {beginning.samples} of {declared} samples can be read")
    return beginning.audio(), SoundFacts(beginning.samples / rate, rate, count, beginning.peak)


class _Stream(soundfile.SoundFile):
    """A sound that is read from beginning to end. ``SoundFile`` itself seeks after every block, which fails if the length is wrong."""

    def seekable(self) -> bool:
        return False


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise DecodeError(
            f"states a sampling rate of {rate:,} Hz, which no sound has ({RATES[0]:,} to {RATES[1]:,}); the file is damaged"
        )


def open_container(path: Path) -> Any:
    """Open a video file with PyAV.

    Raises:
        DecodeError: it is not a regular file, not a video, or truncated by what its container declares.
        OSError: it cannot be opened.
    """
    with open_regular(path) as file:
        if file.seek(0, io.SEEK_END) == 0:
            raise DecodeError("the file is empty (0 bytes)")
        check_complete(file)
    try:
        # Names of streams and tags may be in any encoding; none of them is used.
        return av.open(str(path), metadata_errors="replace")
    except (PermissionError, MemoryError):
        raise
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(f"cannot be opened as video ({reason(error)})") from error


def set_up_decoder(stream: Any) -> None:
    """Have a track decoded in one thread and within bounds. Raises DecodeError if it cannot be decoded at all."""
    context = stream.codec_context
    if context is None:
        raise DecodeError(f"the {stream.type} track is in a format that is not known")
    if stream.type == "video" and context.width * context.height > FRAME_PIXELS:
        raise DecodeError(
            f"frames of {context.width:,} x {context.height:,} pixels, more than {FRAME_PIXELS:,} in all; make them smaller"
        )
    context.thread_count = 1  # many files are decoded at once
    context.options = DECODER_LIMITS


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


def _read_track(path: Path, seconds: float) -> tuple[np.ndarray, SoundFacts]:
    with open_container(path) as container:
        if not container.streams.audio:
            raise DecodeError(f"no sound track (it has {tracks_of(container)})")
        stream = container.streams.audio[0]
        set_up_decoder(stream)
        beginning: _Beginning | None = None
        resampler: Any = None
        parts: list[np.ndarray] = []
        count = waiting = 0
        broken = ""
        try:
            for frame in container.decode(stream):
                if beginning is None:
                    _check_rate(frame.sample_rate)
                    beginning = _Beginning(seconds * frame.sample_rate)
                    # Converts every sample format to planar float32; the rate is kept.
                    resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
                for item in resampler.resample(frame):
                    parts.append(item.to_ndarray())
                    count, waiting = parts[-1].shape[0], waiting + parts[-1].size
                if waiting >= BLOCK:
                    _add_parts(beginning, parts)
                    waiting = 0
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            broken = reason(error)
        if beginning is not None:
            _add_parts(beginning, parts)
        if beginning is None or beginning.samples == 0:
            raise DecodeError(f"no sound can be decoded{broken and f' ({broken})'}")
        rate = int(stream.codec_context.sample_rate)
        decoded = beginning.samples / rate
        check_length(decoded, stated_seconds(container, stream), "sound", broken)
    return beginning.audio(), SoundFacts(decoded, rate, count, beginning.peak)


def _add_parts(beginning: _Beginning, parts: list[np.ndarray]) -> None:
    """Move parts of a sound, ``(channels, any)``, to its beginning."""
    if parts and (channels := np.concatenate(parts, axis=1)).size:
        beginning.add(channels.mean(axis=0, dtype=np.float32))
    parts.clear()


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
