"""Class separability of features: cluster purity (Diagnosing & Re-learning)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

STARTS = 10
"""Number of k-means starts: scikit-learn's default when the official code was written."""


def cluster_purity(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the fraction of samples that belong to the most common class of their cluster, 0 to 1."""
    return sum(int(np.bincount(labels[clusters == cluster]).max()) for cluster in np.unique(clusters)) / len(labels)


def feature_purity(features: Tensor, labels: Tensor, classes: int) -> float:
    """Return the purity of k-means clusters, one per class, of features whose columns are scaled to [-1, 1].

    Args:
        features: ``(samples, width)``.
        labels: ``(samples,)`` int64.
        classes: number of clusters.
    """
    values = features.double().numpy()
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters, early in training
        clusters = KMeans(min(classes, len(values)), n_init=STARTS, random_state=0).fit_predict(
            2 * (values - low) / span - 1
        )
    return cluster_purity(clusters, labels.numpy())
