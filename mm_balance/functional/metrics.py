"""Metrics of predictions and detection, and statistics over seeds. All return Python floats and accept tensors on any device."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor

from mm_balance.functional.labels import class_probabilities, has_several_classes, is_named_right, samples_by_class


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of samples whose largest logit is a true class, 0 to 1; ties go to the first class.

    Args:
        logits: ``(samples, classes)``, at least one sample.
        labels: ``(samples,)`` int64; or several true classes per sample, multi-hot, ``(samples, classes)``. Of these, it is also
            known as precision at 1; with exactly one true class in each row it is the same number as with class numbers.

    Raises:
        ValueError: mismatched shapes, or no sample.
    """
    _check(logits, labels)
    return float(is_named_right(logits, labels).double().mean())


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Return the unweighted mean of F1 over all classes, present or not, with 0/0 = 0; 0 to 1.

    Arguments and errors are those of ``accuracy``. This is BalanceBenchmark's rule; scikit-learn's default drops absent classes. Of
    several true classes per sample, those with a sigmoid above 0.5 are predicted.
    """
    _check(logits, labels)
    classes = list(range(logits.shape[1]))
    predicted = logits > 0 if has_several_classes(labels) else logits.argmax(dim=1)
    return float(f1_score(_array(labels), _array(predicted), labels=classes, average="macro", zero_division=0))


def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the one-versus-rest average precision of the softmax, without interpolation; 0 to 1.

    Classes without samples have no average precision and are left out. NaN if a logit is NaN (training diverged).
    Arguments and errors are those of ``accuracy``. Of several true classes per sample: of the sigmoid.
    """
    _check(logits, labels)
    values = average_precisions(logits, labels).values()
    return float(np.mean(list(values)))


def average_precisions(logits: Tensor, labels: Tensor) -> dict[int, float]:
    """Return the average precision of each class that occurs against the rest: number of the class -> 0 to 1, or NaN.

    Arguments are those of ``mean_average_precision``.
    """
    probabilities = class_probabilities(logits.double(), several_classes=has_several_classes(labels))
    spoilt = bool(probabilities.isnan().any())
    found = {}
    for number, members in samples_by_class(labels).items():
        truth = np.zeros(len(labels), dtype=bool)
        truth[_array(members)] = True
        found[number] = math.nan if spoilt else float(average_precision_score(truth, _array(probabilities[:, number])))
    return found


def binary_auc(scores: Tensor, positives: Tensor) -> float:
    """Return the area under the ROC curve, 0 to 1: the probability that a positive scores above a negative; ties count half.

    Args:
        scores: ``(samples,)``; infinite scores are ranked like any other.
        positives: ``(samples,)`` bool.

    Returns:
        NaN if only positives or only negatives occur, or a score is NaN.

    Raises:
        ValueError: mismatched shapes.
    """
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}, positives {tuple(positives.shape)}; need (N,) twice"
        )
    values, truth = _array(scores.double()), _array(positives).astype(bool)
    if truth.all() or not truth.any() or np.isnan(values).any():
        return math.nan
    return float(roc_auc_score(truth, stats.rankdata(values)))


def paired_interval(differences: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of paired differences and its two-sided confidence interval (Student's t).

    Args:
        differences: one per pair (same seed, two methods), any unit.
        level: confidence level, in (0, 1).

    Returns:
        Mean, lower and upper end, in the unit of the differences; an infinite interval for a single difference.

    Raises:
        ValueError: no differences, or a level outside (0, 1).
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or not len(values) or not 0 < level < 1:
        raise ValueError(f"need one or more differences and a level in (0, 1), got shape {values.shape}, level {level}")
    mean = float(values.mean())
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def paired_p_value(differences: ArrayLike) -> float:
    """Return the two-sided p-value of the hypothesis that paired differences have mean 0 (Student's t).

    It is below ``1 - level`` exactly if the interval of ``paired_interval`` excludes 0.

    Args:
        differences: one per pair (same seed, two methods), any unit.

    Returns:
        In [0, 1]; 1 for a single difference, or if all are 0.

    Raises:
        ValueError: no differences, or one that is not finite.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"need one or more finite differences, got {values.tolist()}")
    if len(values) < 2 or not values.any():
        return 1.0
    error = values.std(ddof=1) / math.sqrt(len(values))
    return 0.0 if error == 0 else float(2 * stats.t.sf(abs(values.mean()) / error, len(values) - 1))


def holm(p_values: ArrayLike) -> list[float]:
    """Adjust p-values for multiple testing by Holm's step-down method.

    Rejecting the hypotheses whose adjusted value is below ``level`` bounds the probability of any false rejection in the family
    by ``level``, whatever the dependence between the tests (Holm, Scand. J. Statist. 6, 1979).

    Args:
        p_values: one per test of the family, each in [0, 1].

    Returns:
        One adjusted value per test, in input order: the i-th smallest times the number of tests not below it, never less than the
        adjusted value of a smaller one, at most 1.

    Raises:
        ValueError: a value outside [0, 1], or NaN.
    """
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"need p-values between 0 and 1, got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return [float(value) for value in adjusted]


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape not in (logits.shape[:1], logits.shape) or not len(labels):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, labels {tuple(labels.shape)}; need (N, C), and (N,) or multi-hot (N, C)"
        )


def _array(values: Tensor) -> NDArray:
    return values.detach().cpu().numpy()
