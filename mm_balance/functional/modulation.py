"""Discrepancy between modalities, and the modulation it controls (OGM-GE, OPM). No host sync; pure, except ``modulate_``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

NOISE_FLOOR = 1e-8
SCORE_FLOOR = 1e-12
"""Lower bound of scores: if no modality predicts any true class, all are equal and no ratio is infinite."""


def discrepancy_ratios(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute ``rho_m = s_m / mean of the other s_j``; above 1 = ahead. Two modalities: as OGM-GE; more: ours.

    Args:
        scores: modality -> scalar >= 0, a sum of true-class probabilities, clamped to at least 1e-12.

    Returns:
        modality -> finite scalar.
    """
    scores = {name: value.clamp_min(SCORE_FLOOR) for name, value in scores.items()}
    total = torch.stack(list(scores.values())).sum()
    others = len(scores) - 1
    return {name: value * others / (total - value).clamp_min(SCORE_FLOOR) for name, value in scores.items()}


def ogm_coefficients(
    ratios: Mapping[str, Tensor], alpha: float, *, first_loses_ties: bool = False
) -> dict[str, Tensor]:
    """Compute the gradient factors of the encoders: ``1 - tanh(alpha rho_m)`` where ``rho_m > 1``, else 1 (OGM-GE).

    Args:
        ratios: output of ``discrepancy_ratios``.
        alpha: >= 0.
        first_loses_ties: at ``rho = 1`` the first modality is damped, as in the official code.

    Returns:
        modality -> scalar in (0, 1].
    """
    coefficients = {}
    for index, (name, ratio) in enumerate(ratios.items()):
        ahead = ratio >= 1 if first_loses_ties and index == 0 else ratio > 1
        coefficients[name] = torch.where(ahead, 1 - torch.tanh(alpha * ratio), torch.ones_like(ratio))
    return coefficients


def modulate_(gradient: Tensor, coefficient: Tensor, noise: Tensor | None) -> None:
    """Scale a gradient in place to ``k g``, plus noise with the standard deviation of the unscaled gradient (n - 1, plus 1e-8).

    Args:
        gradient: any shape, two elements or more.
        coefficient: scalar.
        noise: standard normal draws of the same shape, which are overwritten; None = no noise (OGM without GE).
    """
    if noise is not None:
        noise.mul_(gradient.std() + NOISE_FLOOR)
    gradient.mul_(coefficient)
    if noise is not None:
        gradient.add_(noise)


def normal_draws(like: Sequence[Tensor]) -> list[Tensor]:
    """Return standard normal draws with the shapes, strides, type and device of tensors of one type and device.

    They are parts of one buffer: drawing tensor by tensor costs several times as much where weights lie channels last in memory.
    """
    if not like:
        return []
    draws = torch.randn(sum(item.numel() for item in like), dtype=like[0].dtype, device=like[0].device)
    found, offset = [], 0
    for item in like:
        span = 1 + sum((size - 1) * stride for size, stride in zip(item.shape, item.stride(), strict=True))
        part = draws[offset : offset + item.numel()]
        found.append(part.as_strided(item.shape, item.stride()) if span == item.numel() else part.view(item.shape))
        offset += item.numel()
    return found


def drop_probabilities(ratios: Mapping[str, Tensor], base: float, slope: float) -> dict[str, Tensor]:
    """OPM: ``q_m = min(base (1 + slope tanh(rho_m - 1)), 1)`` where ``rho_m > 1``, else 0; it jumps from 0 to ``base``."""
    probabilities = {}
    for name, ratio in ratios.items():
        ahead = torch.tanh(torch.relu(ratio - 1))
        probabilities[name] = torch.where(ahead > 0, (base * (1 + slope * ahead)).clamp(0, 1), torch.zeros_like(ratio))
    return probabilities


def drop_features(
    features: Mapping[str, Tensor], probabilities: Mapping[str, Tensor], draws: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """OPM: drop the whole feature of a modality per sample, and rescale all modalities by ``1 / (1 - theta)``.

    ``theta`` is the expected fraction of dropped features, weighted by width. A sample never loses all modalities, because at
    least one is not ahead and has probability 0.

    Args:
        features: modality -> ``(batch, width)``.
        probabilities: modality -> scalar in [0, 1].
        draws: modality -> ``(batch,)`` uniform in [0, 1); a draw below the probability drops the feature.
    """
    widths = {name: value.shape[1] for name, value in features.items()}
    theta = torch.stack([widths[name] * probabilities[name] for name in features]).sum() / sum(widths.values())
    scale = 1 / (1 - theta).clamp_min(1e-6)
    return {
        name: value * ((draws[name] >= probabilities[name]).to(value.dtype) * scale).unsqueeze(1)
        for name, value in features.items()
    }
