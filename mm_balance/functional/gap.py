"""The modality gap (arXiv 2510.21797v1, Eq. 4 and 6). Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the true class (Eq. 4).

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)`` int64, 0 to classes - 1.

    Returns:
        ``(batch,)`` in [0, 1], differentiable.
    """
    return logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)


def modality_gap(logits: Mapping[str, Tensor], labels: Tensor, *, leading: str | None = None) -> Tensor:
    """How far the leading modality is ahead on the true class (Eq. 6): first minus second.

    With more than two modalities: the leading one minus the best of the others (ours; the paper has two).

    Args:
        logits: modality -> ``(batch, classes)`` unimodal logits, two or more.
        labels: ``(batch,)`` int64.
        leading: which modality is positive; default the first of ``logits``.

    Returns:
        ``(batch,)`` in [-1, 1], differentiable.

    Raises:
        ValueError: fewer than two modalities, or ``leading`` is none of them.
    """
    return gap_from_probabilities(
        {name: true_class_probability(value, labels) for name, value in logits.items()}, leading=leading
    )


def gap_from_probabilities(probabilities: Mapping[str, Tensor], *, leading: str | None = None) -> Tensor:
    """The gap from true-class probabilities, modality -> ``(batch,)``; see ``modality_gap``."""
    first, best_other = _sides(probabilities, leading)
    return first - best_other


def weaker_moving_gap(probabilities: Mapping[str, Tensor], *, leading: str | None = None) -> Tensor:
    """The same value, but its gradient flows into the weaker side of each sample alone (ours).

    The stronger side is a constant, so that closing the gap can only raise the weaker modality, never lower the stronger.
    """
    first, best_other = _sides(probabilities, leading)
    first_is_weaker = first < best_other
    return torch.where(first_is_weaker, first, first.detach()) - torch.where(
        first_is_weaker, best_other.detach(), best_other
    )


def _sides(probabilities: Mapping[str, Tensor], leading: str | None) -> tuple[Tensor, Tensor]:
    if len(probabilities) < 2:
        raise ValueError(f"a gap needs two or more modalities, got {list(probabilities)}")
    leading = next(iter(probabilities)) if leading is None else leading
    if leading not in probabilities:
        raise ValueError(f"leading={leading} is none of the modalities {list(probabilities)}")
    others = [value for name, value in probabilities.items() if name != leading]
    return probabilities[leading], torch.stack(others).amax(dim=0) if len(others) > 1 else others[0]
