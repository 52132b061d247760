"""Labels of two forms: the number of the one class of each sample, or several true classes per sample (multi-hot). Pure functions.

One class: ``(samples,)`` int64; the classes exclude each other, and probabilities are those of the softmax. Several: ``(samples,
classes)`` bool, each row with a true class; every class is a question of its own, and probabilities are those of the sigmoid. Several
classes are ours: the paper has one per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def has_several_classes(labels: Tensor) -> bool:
    """Return whether labels are multi-hot."""
    return labels.ndim == 2


def class_probabilities(logits: Tensor, *, several_classes: bool) -> Tensor:
    """Return the probability of each class, of the shape and dtype of ``logits`` ``(samples, classes)``."""
    return logits.sigmoid() if several_classes else logits.softmax(dim=1)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the batch of the cross-entropy of each sample, a scalar of the dtype of ``logits``.

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)`` int64: of the softmax. Multi-hot, ``(batch, classes)``: binary, of the sigmoid, mean over all classes.
    """
    if has_several_classes(labels):
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return functional.cross_entropy(logits, labels)


def is_named_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the class with the largest logit is the true one, or one of the true ones: ``(samples,)`` bool.

    Args:
        logits: ``(samples, classes)``; ties go to the first class.
        labels: ``(samples,)`` int64, or multi-hot.
    """
    named = logits.argmax(dim=1)
    if has_several_classes(labels):
        return labels.gather(1, named[:, None])[:, 0].bool()
    return named == labels


def class_sizes(labels: Tensor, classes: int) -> Tensor:
    """Return the number of samples of each class, ``(classes,)`` int64; a sample of several classes counts in each."""
    return labels.sum(dim=0) if has_several_classes(labels) else labels.bincount(minlength=classes)


def samples_by_class(labels: Tensor) -> dict[int, Tensor]:
    """Return the samples of each class that occurs, in order: class -> ``(members,)`` int64, ascending."""
    if has_several_classes(labels):
        members = {number: column.nonzero().squeeze(1) for number, column in enumerate(labels.bool().unbind(dim=1))}
        return {number: indices for number, indices in members.items() if len(indices)}
    return {int(number): (labels == number).nonzero().squeeze(1) for number in labels.unique()}


def strata(labels: Tensor) -> Tensor:
    """Return a number for each sample, equal for samples with the same true class or classes: ``(samples,)`` int64.

    It is the class itself where there is one; else the number of the set of classes among those that occur.
    """
    return labels.unique(dim=0, return_inverse=True)[1] if has_several_classes(labels) else labels


def label_names(labels: Tensor, classes: tuple[str, ...]) -> list[str]:
    """Return the name of each sample's class; several are separated by commas."""
    if has_several_classes(labels):
        return [", ".join(classes[number] for number in row.nonzero().flatten().tolist()) for row in labels]
    return [classes[number] for number in labels.tolist()]


def random_share(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Return a random fraction of the samples, ascending, with at least one of each class: ``(members,)`` int64.

    Stratified where samples have one class. With several, classes that the drawn samples lack get one more sample each.
    """
    if not has_several_classes(labels):
        kept = []
        for indices in samples_by_class(labels).values():
            chosen = torch.randperm(len(indices), generator=generator)[: max(1, round(fraction * len(indices)))]
            kept.append(indices[chosen])
        return torch.cat(kept).sort().values
    order = torch.randperm(len(labels), generator=generator)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    taken[order[: round(fraction * len(labels))]] = True
    for indices in samples_by_class(labels[order]).values():
        if not taken[order[indices]].any():
            taken[order[indices[0]]] = True
    return taken.nonzero().squeeze(1)
