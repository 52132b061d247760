"""How well features separate the classes: purity of clusters (Diagnosing & Re-learning)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

STARTS = 10
"""Starts of k-means: scikit-learn's default when the official code was written."""


def cluster_purity(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of samples that belong to the most common class of their cluster, 0 to 1."""
    return sum(int(np.bincount(labels[clusters == one]).max()) for one in np.unique(clusters)) / len(labels)


def feature_purity(features: Tensor, labels: Tensor, classes: int) -> float:
    """Purity of k-means clusters, as many as there are classes, of features whose columns are stretched to [-1, 1].

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
        found = KMeans(min(classes, len(values)), n_init=STARTS, random_state=0).fit_predict(
            2 * (values - low) / span - 1
        )
    return cluster_purity(found, labels.numpy())
