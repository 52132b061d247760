"""How far modalities are ahead of one another, and what is done about it. Pure functions of tensors, no host sync."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NOISE_FLOOR = 1e-8
SCORE_FLOOR = 1e-12
"""Least score: where no modality knows any true class, all are equal, and nobody is infinitely far ahead."""


def discrepancy_ratios(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``rho_m = s_m / mean of the other s_j``; above 1 = ahead. With two modalities OGM-GE's, with more ours.

    Args:
        scores: modality -> scalar >= 0, a sum of true-class probabilities; below 1e-12 it counts as that.

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
    """Factors of the encoders' gradients: ``1 - tanh(alpha rho_m)`` where ``rho_m > 1``, else 1 (OGM-GE).

    Args:
        ratios: as ``discrepancy_ratios`` gives.
        alpha: >= 0.
        first_loses_ties: at ``rho = 1`` the first modality is damped, as in the official code.

    Returns:
        modality -> scalar in (0, 1].
    """
    found = {}
    for place, (name, ratio) in enumerate(ratios.items()):
        ahead = ratio >= 1 if first_loses_ties and place == 0 else ratio > 1
        found[name] = torch.where(ahead, 1 - torch.tanh(alpha * ratio), torch.ones_like(ratio))
    return found


def modulated_gradient(gradient: Tensor, coefficient: Tensor, noise: Tensor | None) -> Tensor:
    """``k g``, plus noise of the gradient's own deviation (before scaling, n - 1, plus 1e-8) where there is one.

    Args:
        gradient: any shape, two elements or more.
        coefficient: scalar.
        noise: standard normal draws of the same shape; None = no noise (OGM without GE).
    """
    if noise is None:
        return gradient * coefficient
    return gradient * coefficient + noise * (gradient.std() + NOISE_FLOOR)


def drop_probabilities(ratios: Mapping[str, Tensor], base: float, slope: float) -> dict[str, Tensor]:
    """OPM: ``q_m = min(base (1 + slope tanh(rho_m - 1)), 1)`` where ``rho_m > 1``, else 0. It starts at ``base``, not at 0."""
    found = {}
    for name, ratio in ratios.items():
        ahead = torch.tanh(torch.relu(ratio - 1))
        found[name] = torch.where(ahead > 0, (base * (1 + slope * ahead)).clamp(0, 1), torch.zeros_like(ratio))
    return found


def drop_features(
    features: Mapping[str, Tensor], probabilities: Mapping[str, Tensor], draws: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """OPM: whole features dropped per sample, all modalities rescaled by ``1 / (1 - theta)``.

    ``theta`` is the expected share of dropped features, by width. A sample never loses all modalities, because one of them is
    not ahead and has probability 0.

    Args:
        features: modality -> ``(batch, width)``.
        probabilities: modality -> scalar in [0, 1].
        draws: modality -> ``(batch,)`` uniform in [0, 1); below the probability = dropped.
    """
    widths = {name: value.shape[1] for name, value in features.items()}
    theta = torch.stack([widths[name] * probabilities[name] for name in features]).sum() / sum(widths.values())
    scale = 1 / (1 - theta).clamp_min(1e-6)
    return {
        name: value * ((draws[name] >= probabilities[name]).to(value.dtype) * scale).unsqueeze(1)
        for name, value in features.items()
    }
