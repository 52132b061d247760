"""The modality gap (arXiv 2510.21797v1, Eq. 4 and 6). Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the softmax probability of the true class (Eq. 4).

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)`` int64, 0 to classes - 1.

    Returns:
        ``(batch,)`` in [0, 1], differentiable; float32 for half-precision logits, else their dtype.

    Raises:
        ValueError: mismatched shapes.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        # Without this, gather would accept fewer labels than rows and silently drop the rest.
        raise ValueError(f"logits have shape {tuple(logits.shape)}, labels {tuple(labels.shape)}; need (B, C) and (B,)")
    logits = logits.float() if logits.element_size() < 4 else logits
    return logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)


def modality_gap(logits: Mapping[str, Tensor], labels: Tensor, *, leading: str | None = None) -> Tensor:
    """Compute how far the leading modality is ahead on the true class (Eq. 6): first minus second.

    With more than two modalities, the leading one minus the best of the others (ours; the paper has two).

    Args:
        logits: modality -> ``(batch, classes)`` unimodal logits, two or more.
        labels: ``(batch,)`` int64.
        leading: modality with positive sign; default: the first of ``logits``.

    Returns:
        ``(batch,)`` in [-1, 1], differentiable.

    Raises:
        ValueError: fewer than two modalities, ``leading`` is not one of them, or mismatched shapes.
    """
    return gap_from_probabilities(
        {name: true_class_probability(value, labels) for name, value in logits.items()}, leading=leading
    )


def gap_from_probabilities(probabilities: Mapping[str, Tensor], *, leading: str | None = None) -> Tensor:
    """Compute the gap (Eq. 6) from true-class probabilities.

    Args:
        probabilities: modality -> ``(batch,)`` in [0, 1], two or more.
        leading: modality with positive sign; default: the first.

    Returns:
        ``(batch,)`` in [-1, 1], differentiable.

    Raises:
        ValueError: fewer than two modalities, or ``leading`` is not one of them.
    """
    first, best_other = _sides(probabilities, leading)
    return first - best_other


def weaker_moving_gap(probabilities: Mapping[str, Tensor], *, leading: str | None = None) -> Tensor:
    """Compute the same value, but with gradients only for the weaker side of each sample (ours).

    The stronger side is a constant, so that a penalty on abs(D) can only raise the weaker modality, never lower the
    stronger. At a tie the gradient goes to the second side. Arguments, result and errors are those of
    ``gap_from_probabilities``.
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
        raise ValueError(f"leading={leading} is not one of the modalities {list(probabilities)}")
    others = [value for name, value in probabilities.items() if name != leading]
    return probabilities[leading], torch.stack(others).amax(dim=0) if len(others) > 1 else others[0]
