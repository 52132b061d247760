"""Linear probe: accuracy of a linear classifier on frozen features."""

from __future__ import annotations

import warnings

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

ITERATIONS = 1000


def linear_probe(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    """Return the accuracy, 0 to 1, of a logistic regression on standardized features (L2, scikit-learn's default strength).

    Args:
        features: ``(samples, width)`` of the training split.
        labels: ``(samples,)`` int64.
        test_features: ``(others, width)`` of the split to score.
        test_labels: ``(others,)`` int64.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(features.double().numpy(), labels.numpy())
    return float(probe.score(test_features.double().numpy(), test_labels.numpy()))
