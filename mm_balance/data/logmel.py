"""Batched log-mel spectrograms for the embedded set, which computes them when it is loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from mm_balance.data.features import htk_filters

POWER_FLOOR = 1e-6
"""Added to the power of a band before the logarithm, so that digital silence stays finite (60 dB below full scale)."""


def mel_filter_bank(rate: int, window: int, bands: int) -> Tensor:
    """Return ``htk_filters`` as a ``(bands, window // 2 + 1)`` float32 tensor. Raises the same ValueError."""
    return torch.from_numpy(htk_filters(rate, window, bands)).float()


def log_mel(audio: Tensor, *, rate: int, window: int, hop: int, bands: int) -> Tensor:
    """Compute log-mel spectrograms.

    Args:
        audio: ``(sounds, samples)`` float32; frames are centered on samples 0, ``hop``, ...; zero padding at both ends.
        rate: sampling rate in Hz.
        window: samples per frame (periodic Hann window).
        hop: samples between frames.
        bands: mel bands.

    Returns:
        ``(sounds, 1, bands, frames)`` float32: natural logarithm of the power in each band plus ``POWER_FLOOR``,
        normalized so that white noise of variance 1 has a mean power of 1. ``frames = 1 + samples // hop``.
    """
    taper = torch.hann_window(window)
    spectrum = torch.stft(audio, window, hop, window=taper, center=True, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square_().div_(taper.square().sum())
    return (mel_filter_bank(rate, window, bands) @ power).add_(POWER_FLOOR).log_().unsqueeze(1)
