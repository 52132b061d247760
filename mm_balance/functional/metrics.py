"""Scores of predictions and of detection, and intervals over seeds. All return Python floats."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest logit is the true class, 0 to 1. ``logits`` (samples, classes), ``labels`` (samples,)."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Unweighted mean over all classes (present or not) of F1, 0/0 = 0. Shapes as in ``accuracy``."""
    classes = list(range(logits.shape[1]))
    return float(f1_score(labels.numpy(), logits.argmax(dim=1).numpy(), labels=classes, average="macro", zero_division=0))


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Mean over classes of one-versus-rest average precision of the softmax; classes without a sample are left out."""
    probabilities, truth = logits.double().softmax(dim=1).numpy(), labels.numpy()
    return float(np.mean([average_precision_score(truth == name, probabilities[:, name]) for name in np.unique(truth)]))


def binary_auc(scores: Tensor, positives: Tensor) -> float:
    """Area under the ROC curve of ``scores`` (samples,) for ``positives`` (samples,) bool; ties count half.

    NaN where only one of the two kinds occurs.
    """
    truth = positives.numpy().astype(bool)
    if truth.all() or not truth.any():
        return float("nan")
    return float(roc_auc_score(truth, scores.numpy()))


def paired_interval(differences: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of paired differences with its two-sided interval (Student's t): mean, low, high.

    The interval is infinite for a single difference.
    """
    values = np.asarray(differences, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("-inf"), float("inf")
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
