"""Class prototypes of features, and their predictions (PMR). Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

SQUARED_FLOOR = 1e-12
"""Added under the square root, whose gradient is NaN at distance 0."""


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each class.

    Args:
        features: ``(samples, width)``.
        labels: ``(samples,)`` int64.
        classes: number of classes.

    Returns:
        Means, ``(classes, width)``, 0 for a class without samples; sample counts, ``(classes,)``.
    """
    totals = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=classes)
    return totals / counts.clamp_min(1).unsqueeze(1), counts


def moved_prototypes(old: Tensor, fresh: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """Return ``(1 - momentum) fresh + momentum old``; a class without samples keeps its old prototype."""
    return torch.where(counts.unsqueeze(1) > 0, (1 - momentum) * fresh + momentum * old, old)


def prototype_logits(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return ``-||phi - P[c]||``, not squared: ``(batch, width)``, ``(classes, width)`` -> ``(batch, classes)``."""
    difference = features.unsqueeze(1) - prototypes.unsqueeze(0)
    return -(difference.square().sum(dim=2) + SQUARED_FLOOR).sqrt()
