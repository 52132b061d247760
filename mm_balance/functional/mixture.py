"""Fitting the Gaussian mixture of modality gaps.

Source: arXiv 2510.21797v1, Eq. 8 and 9. Which component is "balanced" is our rule: the one with the smaller second
moment about zero, mean^2 + std^2 (a mean near zero alone is ambiguous once both means are near zero). The kinds
``two_absolute`` and ``three`` are ours.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from mm_balance.functional.gaussians import Component, Mixture, as_array

__all__ = ["KINDS", "VARIANCE_FLOOR", "Component", "Mixture", "fit_mixture"]

VARIANCE_FLOOR = 1e-5
"""Added to every variance (scikit-learn's ``reg_covar``): no std below 0.0032, so no density
above 126 (63 under ``two_absolute``, which is mirrored)."""

MINIMUM_SAMPLES = 10
MINIMUM_STD = 1e-6
KINDS = {"two": 2, "two_absolute": 2, "three": 3}
KMEANS_STARTS = 3
RANDOM_STARTS = 6
POLISHED_STARTS = 3
THINNED = 1000
"""Starts run on this many evenly spaced order statistics; only the best ones continue on all gaps."""
LARGE = 20_000
"""From more gaps on, the best starts continue on ``THINNED_LARGE`` order statistics, and only the best of these on all gaps."""
THINNED_LARGE = 5000


def fit_mixture(gaps: Tensor | NDArray, *, kind: str = "two", seed: int = 0) -> Mixture:
    """Fit the mixture (Eq. 8) by expectation-maximization, keeping the start with the best likelihood.

    Three starts use k-means, six use random data points with random widths, and five put a narrow component at a quantile next
    to wide ones. K-means alone gets stuck in a poor optimum when a narrow peak sits on a broad component, as in late refits.
    Gaps are sorted first, so that their order does not matter.

    Args:
        gaps: ``(samples,)``, in [-1, 1].
        kind: ``two``, ``two_absolute`` (on the absolute gap) or ``three``.
        seed: seed of the random starts; global generators are not used.

    Returns:
        The fit. If gaps are non-finite, fewer than 10, or have a standard deviation below 1e-6 (of abs(gap) for
        ``two_absolute``): a single component, marked degenerate, with mean and standard deviation of the finite gaps, or 0 and
        the floor if there are none.

    Raises:
        ValueError: unknown kind, or gaps that are not one-dimensional.
    """
    if kind not in KINDS:
        raise ValueError(f"mixture={kind} is not known; give one of {', '.join(KINDS)}")
    values = as_array(gaps)
    if values.ndim != 1:
        raise ValueError(f"gaps must be one-dimensional, got shape {values.shape}")
    if kind == "two_absolute":
        values = np.abs(values)
    values = np.sort(values)
    if len(values) < MINIMUM_SAMPLES or not np.isfinite(values).all() or values.std() < MINIMUM_STD:
        return _degenerate(values, kind)
    column = values.reshape(-1, 1)
    best = _best_fit(column, KINDS[kind], seed)
    components = tuple(
        Component(float(mean), math.sqrt(variance), float(weight))
        for mean, variance, weight in sorted(
            zip(best.means_[:, 0], best.covariances_[:, 0], best.weights_, strict=True), key=lambda item: item[0]
        )
    )
    bic = float(best.bic(column))
    return Mixture(
        kind=kind,
        components=components,
        balanced_index=min(range(len(components)), key=lambda index: components[index].second_moment),
        log_likelihood=float(best.score(column)),
        bic=bic,
        separated=bic < _single_bic(values),
        degenerate=False,
        samples=len(values),
    )


def _best_fit(column: NDArray, count: int, seed: int) -> GaussianMixture:
    """Return the best of all starts on sorted ``column`` (samples, 1)."""
    with warnings.catch_warnings():
        # A start that has not converged in time is still a candidate.
        warnings.simplefilter("ignore", ConvergenceWarning)
        few = _thinned(column, THINNED)
        drafts = [model.fit(few) for model in _starts(column, count, seed)]
        drafts.sort(key=lambda fitted: -fitted.lower_bound_)
        large = len(column) > LARGE
        many = _thinned(column, THINNED_LARGE) if large else column
        polished = [_continued(item).fit(many) for item in drafts[:POLISHED_STARTS]]
        best = max(polished, key=lambda fitted: fitted.lower_bound_)
        return _continued(best).fit(column) if large else best


def _thinned(column: NDArray, count: int) -> NDArray:
    """Return ``count`` evenly spaced rows of sorted ``column``, or all if it has fewer."""
    return column[np.linspace(0, len(column) - 1, min(count, len(column))).round().astype(int)]


def _continued(fitted: GaussianMixture) -> GaussianMixture:
    """Return an unfitted model that goes on from where ``fitted`` arrived."""
    return _model(fitted.weights_, fitted.means_, fitted.covariances_, thorough=True)


def _starts(column: NDArray, count: int, seed: int) -> list[GaussianMixture]:
    generator = np.random.default_rng(seed)
    spread = float(column.std())
    models = [
        GaussianMixture(**_settings(count), init_params="kmeans", random_state=int(generator.integers(2**31)))
        for _ in range(KMEANS_STARTS)
    ]
    for _ in range(RANDOM_STARTS):
        means = generator.choice(column, size=count, replace=False)
        stds = spread * np.exp(generator.uniform(math.log(0.03), 0.0, (count, 1)))
        models.append(_model(np.full(count, 1 / count), means, stds**2))
    wide_means = np.linspace(column[0, 0], column[-1, 0], count + 1)[1:-1] if count > 2 else [column.mean()]
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        means = np.array([np.quantile(column, quantile), *wide_means])[:, None]
        stds = spread * np.array([0.1] + [1.0] * (count - 1))[:, None]
        models.append(_model(np.full(count, 1 / count), means, stds**2))
    return models


def _settings(count: int, *, thorough: bool = False) -> dict:
    return {
        "n_components": count,
        "covariance_type": "diag",
        "reg_covar": VARIANCE_FLOOR,
        "tol": 1e-6 if thorough else 1e-4,
        "max_iter": 500 if thorough else 100,
    }


def _model(weights: NDArray, means: NDArray, variances: NDArray, *, thorough: bool = False) -> GaussianMixture:
    """Return an unfitted model initialized with ``weights`` (count,), ``means`` and ``variances`` (count, 1)."""
    return GaussianMixture(
        **_settings(len(means), thorough=thorough),
        weights_init=weights / weights.sum(),
        means_init=means,
        precisions_init=1 / np.maximum(variances, VARIANCE_FLOOR),
        random_state=0,
    )


def _single_bic(values: NDArray) -> float:
    """Return the BIC of one Gaussian with the same variance floor (two free parameters)."""
    variance = float(values.var()) + VARIANCE_FLOOR
    log_likelihood = -0.5 * math.log(2 * math.pi * variance) - 0.5 * float(values.var()) / variance
    return 2 * math.log(len(values)) - 2 * len(values) * log_likelihood


def _degenerate(values: NDArray, kind: str) -> Mixture:
    finite = values[np.isfinite(values)]
    mean, std = (float(finite.mean()), float(finite.std())) if len(finite) else (0.0, 0.0)
    component = Component(mean, max(std, math.sqrt(VARIANCE_FLOOR)), 1.0)
    return Mixture(kind, (component,), 0, 0.0, 0.0, separated=False, degenerate=True, samples=len(values))
