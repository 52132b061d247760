"""Folds of a training split for cross-fitting. Pure function of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_folds(labels: Tensor, folds: int, *, seed: int) -> Tensor:
    """Assign every sample to a fold at random, such that fold sizes differ by at most one, in total and within each class.

    Args:
        labels: ``(samples,)`` int64.
        folds: number of folds, 2 to samples.
        seed: seed of the assignment; global generators are not used.

    Returns:
        ``(samples,)`` int64, 0 to folds - 1.

    Raises:
        ValueError: fewer than two folds, or more than samples.
    """
    if not 2 <= folds <= len(labels):
        raise ValueError(f"{len(labels)} samples cannot be put into {folds} folds")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    assigned = torch.empty(len(labels), dtype=torch.int64)
    assigned[by_class] = torch.arange(len(labels)) % folds
    return assigned
