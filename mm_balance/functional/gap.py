"""The modality gap (arXiv 2510.21797v1, Eq. 4 and 6). Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mm_balance.errors import NEEDS_CLASSES, NO_TRUE_CLASS


def true_class_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of the true class (Eq. 4), or, of multi-hot labels, the mean over the true classes (ours).

    With class numbers the classes exclude each other: the softmax of the true class. With multi-hot labels each class is a question
    of its own: the mean over the true classes of the sigmoid of their logits. A row with exactly one true class is multi-hot, too: its
    value is a sigmoid, not the softmax that its class number would give.

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)`` int64, 0 to classes - 1; or multi-hot, ``(batch, classes)``, bool, or numbers that are exactly 0 or 1.

    Returns:
        ``(batch,)`` in [0, 1], differentiable; float32 for half-precision logits, else their dtype.

    Raises:
        ValueError: see ``check_labels``.
    """
    check_labels(logits, labels)
    logits = logits.float() if logits.element_size() < 4 else logits
    if labels.ndim == 1:
        return logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    true = labels.to(torch.bool)
    return torch.where(true, logits.sigmoid(), 0).sum(dim=1) / true.sum(dim=1)


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless ``labels`` name the true class, or classes, of each row of ``logits``, ``(batch, classes)``.

    Multi-hot values are checked, too, because a row without a true class would silently turn everything into NaN: on a GPU this waits
    for the device. Class numbers cost no such wait; of those, only shape and type are checked.
    """
    if logits.ndim != 2 or labels.shape not in (logits.shape[:1], logits.shape):
        # Without this, gather would accept fewer labels than rows and silently drop the rest.
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, labels {tuple(labels.shape)}; need (B, C), and (B,) class numbers or (B, C) "
            "multi-hot labels"
        )
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            why = "" if labels.dtype == torch.bool else f". {NEEDS_CLASSES}"
            raise ValueError(f"labels are {labels.dtype}; need int64, the number of the class{why}")
        return
    if (fault := multi_hot_fault(labels)) is not None:
        row, reason = fault
        raise ValueError(f"labels of row {row}: {reason}")


def multi_hot_fault(labels: Tensor) -> tuple[int, str] | None:
    """Return the first row, and what is wrong with it, that is no multi-hot label with a true class; None = all rows are.

    Args:
        labels: ``(batch, classes)``.
    """
    true = labels == 1
    good = (true | (labels == 0)).all(dim=1) & true.any(dim=1)
    if bool(good.all()):
        return None
    row = int((~good).nonzero()[0])
    strange = labels[row][(labels[row] != 0) & (labels[row] != 1)]
    if len(strange):
        return row, f"{strange[0].item():g} is neither 0 nor 1. {NEEDS_CLASSES}"
    return row, NO_TRUE_CLASS


def modality_gap(logits: Mapping[str, Tensor], labels: Tensor, *, leading: str | None = None) -> Tensor:
    """Compute how far the leading modality is ahead on the true class (Eq. 6): first minus second.

    With more than two modalities, the leading one minus the best of the others (ours; the paper has two).

    Args:
        logits: modality -> ``(batch, classes)`` unimodal logits, two or more.
        labels: ``(batch,)`` int64; or multi-hot, ``(batch, classes)``: the gap is then that of the probabilities averaged over the
            true classes, see ``true_class_probability`` (ours).
        leading: modality with positive sign; default: the first of ``logits``.

    Returns:
        ``(batch,)`` in [-1, 1], differentiable.

    Raises:
        ValueError: fewer than two modalities, ``leading`` is not one of them, or labels that do not fit (``check_labels``).
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
