"""Discrepancy between modalities, and the modulation it controls (OGM-GE, OPM). Pure functions of tensors, no host sync."""

from __future__ import annotations

from collections.abc import Mapping

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


def modulated_gradient(gradient: Tensor, coefficient: Tensor, noise: Tensor | None) -> Tensor:
    """Return ``k g``, plus noise with the standard deviation of the unscaled gradient (n - 1, plus 1e-8) if ``noise`` is given.

    Args:
        gradient: any shape, two elements or more.
        coefficient: scalar.
        noise: standard normal draws of the same shape; None = no noise (OGM without GE).
    """
    if noise is None:
        return gradient * coefficient
    return gradient * coefficient + noise * (gradient.std() + NOISE_FLOOR)


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
