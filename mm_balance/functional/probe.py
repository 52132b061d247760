"""Linear probe: accuracy of a linear classifier on frozen features."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mm_balance.functional.labels import has_several_classes
from mm_balance.functional.metrics import accuracy

ITERATIONS = 1000


def linear_probe(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    """Return the accuracy, 0 to 1, of a logistic regression on standardized features (L2, scikit-learn's default strength).

    With several true classes per sample there is one regression per class, and the accuracy is that of the class rated highest.

    Args:
        features: ``(samples, width)`` of the training split.
        labels: ``(samples,)`` int64, or multi-hot.
        test_features: ``(others, width)`` of the split to score.
        test_labels: ``(others,)`` int64, or multi-hot.
    """
    several = has_several_classes(labels)
    regression = LogisticRegression(max_iter=ITERATIONS)
    probe = make_pipeline(StandardScaler(), OneVsRestClassifier(regression) if several else regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(features.double().numpy(), labels.numpy())
    held_out = test_features.double().numpy()
    if several:
        return accuracy(torch.from_numpy(probe.decision_function(held_out)), test_labels)
    return float(probe.score(held_out, test_labels.numpy()))
