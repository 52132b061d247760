"""Class prototypes of features, and what they predict (PMR). Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

SQUARED_FLOOR = 1e-12
"""Under the root: at distance 0 its gradient would not be a number."""


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of each class.

    Args:
        features: ``(samples, width)``.
        labels: ``(samples,)`` int64.
        classes: their number.

    Returns:
        ``(classes, width)``, 0 where a class has no sample; ``(classes,)`` number of samples.
    """
    totals = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=classes)
    return totals / counts.clamp_min(1).unsqueeze(1), counts


def moved_prototypes(old: Tensor, fresh: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """``(1 - momentum) fresh + momentum old``; a class without samples keeps its old prototype."""
    return torch.where(counts.unsqueeze(1) > 0, (1 - momentum) * fresh + momentum * old, old)


def prototype_logits(features: Tensor, prototypes: Tensor) -> Tensor:
    """``-||phi - P[c]||``, not squared: ``(batch, width)``, ``(classes, width)`` -> ``(batch, classes)``."""
    difference = features.unsqueeze(1) - prototypes.unsqueeze(0)
    return -(difference.square().sum(dim=2) + SQUARED_FLOOR).sqrt()
