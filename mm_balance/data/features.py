"""Audio features by name: waveform -> spectrogram."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

STFT_FLOOR = 1e-7
KALDI_FLOOR = float(np.finfo(np.float32).eps)
LOGMEL_FLOOR = 1e-6
"""Added to the power of a band before the logarithm, so that digital silence stays finite (60 dB below full scale)."""


@dataclass(frozen=True)
class AudioRecipe:
    """One kind of audio features.

    Attributes:
        name: key in ``AUDIO_RECIPES``.
        rate: sampling rate of the input, Hz.
        bins: frequency bins.
        hop: samples between two frames.
        pads_features: whether a short, non-repeated sound is padded with empty frames (value 0) after its features, as in the
            official code; otherwise silence is appended to the waveform.
        spectrum: ``(samples,)`` float32 -> ``(bins, frames)`` float32.
        frames: number of frames for a number of samples.
    """

    name: str
    rate: int
    bins: int
    hop: int
    pads_features: bool
    spectrum: Callable[[np.ndarray], np.ndarray]
    frames: Callable[[int], int]

    def samples(self, clip_seconds: float) -> int:
        """Return the number of samples in a clip of that length, at least one."""
        return max(1, round(clip_seconds * self.rate))

    def shape(self, clip_seconds: float) -> tuple[int, int, int]:
        """Return the feature shape ``(1, bins, frames)`` of a clip of that length."""
        return 1, self.bins, max(1, self.frames(self.samples(clip_seconds)))

    def compute(self, audio: np.ndarray, clip_seconds: float) -> np.ndarray:
        """Compute the features of a sound.

        Args:
            audio: ``(samples,)`` float32 at ``rate``, full scale 1, no longer than ``clip_seconds``.
            clip_seconds: length of the clip that the features represent.

        Returns:
            ``(1, bins, frames)`` float32; frames beyond the end of the sound are 0.
        """
        spectrum = self.spectrum(audio)
        features = np.zeros(self.shape(clip_seconds), np.float32)
        frames = min(features.shape[2], spectrum.shape[1])
        features[0, :, :frames] = spectrum[:, :frames]
        return features


def stft257(audio: np.ndarray) -> np.ndarray:
    """Natural logarithm of short-time Fourier transform magnitudes.

    GeWu-Lab/OGM-GE_CVPR2022@343dc1d, dataset/CramedDataset.py: 22,050 Hz, clipped to [-1, 1], ``n_fft`` 512, hop 353 (Hann
    window, frames centered, librosa's padding), ``log(magnitude + 1e-7)``. Three seconds give 257 x 188.
    """
    import librosa  # slow to import and only needed here

    spectrum = librosa.stft(np.clip(audio, -1.0, 1.0), n_fft=512, hop_length=353)
    logarithm: np.ndarray = np.log(np.abs(spectrum) + STFT_FLOOR)
    return logarithm.astype(np.float32)


def fbank128(audio: np.ndarray) -> np.ndarray:
    """Log filter bank energies by Kaldi's conventions: 16 kHz, 128 bands, 25 ms Hann windows every 10 ms.

    GeWu-Lab/OGM-GE_CVPR2022@343dc1d, data/KineticSound/process_audio.py, and Multimodal-Learning-with-Alternating-Unimodal-
    Adaptation@ab6c184, data/extract_fbank.py: the mean of the sound is subtracted; whole windows only; the mean of each window is
    subtracted, then pre-emphasis of 0.97 (the first sample with itself); power spectrum of 512 points; triangular filters on
    Kaldi's mel scale from 20 Hz to half the rate; natural logarithm with float32's epsilon as floor. No dither.
    """
    length, hop = 400, 160
    centered = audio.astype(np.float64) - audio.mean(dtype=np.float64)
    if len(centered) < length:
        return np.zeros((128, 0), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(centered, length)[::hop]
    windows = windows - windows.mean(1, keepdims=True)
    previous = np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    windows = (windows - 0.97 * previous) * np.hanning(length)
    power = np.square(np.abs(np.fft.rfft(windows, 512)))[:, :-1]
    energies = power @ kaldi_filters(128, 512, 16_000).T
    return np.log(np.maximum(energies, KALDI_FLOOR)).T.astype(np.float32)


@lru_cache(maxsize=4)
def kaldi_filters(bands: int, points: int, rate: int) -> np.ndarray:
    """Triangular filters, linear on Kaldi's mel scale, 1127 ln(1 + f / 700), from 20 Hz to half the rate.

    Returns:
        ``(bands, points / 2)`` float64: weight of each frequency below half the rate.
    """

    def mel(frequency: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(frequency, dtype=np.float64) / 700.0)

    edges = np.linspace(mel(20.0), mel(rate / 2), bands + 2)
    mels = mel(np.arange(points // 2) * rate / points)
    rising = (mels - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - mels) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


def logmel64(audio: np.ndarray) -> np.ndarray:
    """Ours: 16 kHz, 64 bands on the HTK mel scale, 32 ms Hann windows every 16 ms.

    Natural logarithm of the power in each band (plus ``LOGMEL_FLOOR``), normalized so that white noise of variance 1 has a
    mean power of 1. Frames are centered on samples 0, 256, ...; zero padding at both ends.
    """
    window, hop = 512, 256
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(audio.astype(np.float64), window // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * taper
    power = np.square(np.abs(np.fft.rfft(windows))) / np.square(taper).sum()
    return np.log(htk_filters(16_000, window, 64) @ power.T + LOGMEL_FLOOR).astype(np.float32)


@lru_cache(maxsize=8)
def htk_filters(rate: int, window: int, bands: int) -> np.ndarray:
    """Triangular filters, evenly spaced on the HTK mel scale; each row sums to 1, so a filter averages the power it covers.

    Args:
        rate: sampling rate in Hz; the filters span 0 to ``rate / 2``.
        window: length of the Fourier transform in samples.
        bands: number of filters.

    Returns:
        ``(bands, window // 2 + 1)`` float64.

    Raises:
        ValueError: too many bands for the window: a filter would fall between two frequencies.
    """
    top = 2595.0 * math.log10(1.0 + rate / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, bands + 2) / 2595.0) - 1.0)
    frequencies = np.linspace(0.0, rate / 2, window // 2 + 1)
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (center - low), (high - frequencies) / (high - center)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    total = triangles.sum(axis=1, keepdims=True)
    if not total.all():
        raise ValueError(f"{bands} mel bands are too many for a window of {window} samples at {rate} Hz")
    return triangles / total


AUDIO_RECIPES = {
    recipe.name: recipe
    for recipe in (
        AudioRecipe("logmel64", 16_000, 64, 256, False, logmel64, lambda samples: 1 + samples // 256),
        AudioRecipe("stft257", 22_050, 257, 353, False, stft257, lambda samples: 1 + samples // 353),
        # 1,024 frames for 10.24 s: the last window extends beyond the end.
        AudioRecipe("fbank128", 16_000, 128, 160, True, fbank128, lambda samples: round(samples / 160)),
    )
}
