"""Fitting the Gaussian mixture of modality gaps.

Source: arXiv 2510.21797v1, Eq. 8 and 9. Which component is "balanced" is our rule: the one with the smaller second
moment about zero, mean^2 + std^2 (a mean near zero alone is ambiguous once both means are near zero). The kinds
``two_absolute`` and ``three`` are ours.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mm_balance.functional.expectation_maximization import Fits, Points, converge, one_step
from mm_balance.functional.gaussians import Component, Mixture, as_array

__all__ = ["KINDS", "VARIANCE_FLOOR", "Component", "Mixture", "fit_mixture"]

VARIANCE_FLOOR = 1e-5
"""Added to every variance (scikit-learn's ``reg_covar``): no std below 0.0032, so no density
above 126 (63 under ``two_absolute``, which is mirrored)."""

MINIMUM_SAMPLES = 10
MINIMUM_STD = 1e-6
KINDS = {"two": 2, "two_absolute": 2, "three": 3}
RANDOM_STARTS = 12
"""For each component but the first."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Where narrow components start."""
CLUSTERED = 128
"""Order statistics among which the clusters of the first start are chosen."""
DRAFT = 512
"""Every start runs on this many evenly spaced order statistics; only the best ones continue."""
FINALISTS = 8
BINS = 4096
"""The finalists run on a histogram. A bin is at most 2 / 4096 wide, 0.15 of the smallest standard deviation."""
SAME_LIKELIHOOD, SAME_MEAN = 1e-3, 1e-2
"""Drafts that are this close are the same optimum, nats and gap."""


def fit_mixture(gaps: Tensor | NDArray, *, kind: str = "two", seed: int = 0, also: Mixture | None = None) -> Mixture:
    """Fit the mixture (Eq. 8) by expectation-maximization, keeping the start with the best likelihood.

    The first start has the best clusters (least squares), twelve (24 with ``three``) use random data points with random widths, and
    five put a narrow component at a quantile next to wide ones. Clusters alone lead to a poor optimum when a narrow peak sits on a
    broad component, as in late refits. Gaps are sorted first, so that their order does not matter.

    All starts run at once on few order statistics, the best different ones on a histogram (``Points.histogram``; of up to 4,096 gaps,
    on these themselves). Likelihood and BIC are those of all gaps.

    Args:
        gaps: ``(samples,)``, in [-1, 1].
        kind: ``two``, ``two_absolute`` (on the absolute gap) or ``three``.
        seed: seed of the random starts; global generators are not used.
        also: a mixture to start from besides, as that of the last refit; ignored if it is of another kind.

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
    best, log_likelihood = _best_fit(values, kind, seed, also)
    components = tuple(
        Component(float(mean), math.sqrt(variance), float(weight))
        for mean, variance, weight in sorted(zip(best.means[0], best.variances[0], best.weights[0], strict=True))
    )
    free = 3 * len(components) - 1
    bic = free * math.log(len(values)) - 2 * len(values) * log_likelihood
    return Mixture(
        kind=kind,
        components=components,
        balanced_index=min(range(len(components)), key=lambda index: components[index].second_moment),
        log_likelihood=log_likelihood,
        bic=bic,
        separated=bic < _single_bic(values),
        degenerate=False,
        samples=len(values),
    )


def _best_fit(values: NDArray, kind: str, seed: int, also: Mixture | None) -> tuple[Fits, float]:
    """Return the best of all starts on sorted ``values`` (samples,), and its log-likelihood."""
    few, histogram = Points.order_statistics(values, DRAFT), Points.histogram(values, BINS)
    drafts, scores = converge(
        few, _starts(values, kind, seed, also), floor=VARIANCE_FLOOR, tolerance=3e-3, most_steps=150
    )
    finalists = drafts.chosen(_best_different(drafts, scores))
    polished, scores = converge(histogram, finalists, floor=VARIANCE_FLOOR, tolerance=1e-3, most_steps=300)
    winner = polished.chosen([int(scores.argmax())])
    best, _ = converge(histogram, winner, floor=VARIANCE_FLOOR, tolerance=1e-5, most_steps=1500)
    _, exact = one_step(Points.all(values), best, VARIANCE_FLOOR)
    return best, float(exact[0])


def _best_different(fits: Fits, scores: NDArray) -> list[int]:
    """Return the best starts, without those that arrived where a better one did."""
    means = np.sort(fits.means, axis=1)
    chosen: list[int] = []
    for number in np.argsort(-scores, kind="stable").tolist():
        near = [
            abs(scores[number] - scores[other]) < SAME_LIKELIHOOD
            and np.abs(means[number] - means[other]).max() < SAME_MEAN
            for other in chosen
        ]
        if not any(near):
            chosen.append(number)
        if len(chosen) == FINALISTS:
            break
    return chosen


def _starts(values: NDArray, kind: str, seed: int, also: Mixture | None) -> Fits:
    count = KINDS[kind]
    generator = np.random.default_rng(seed)
    spread = float(values.std())
    equal = np.full(count, 1 / count)
    starts = [_clusters(values, count)]
    for _ in range(RANDOM_STARTS * (count - 1)):
        means = generator.choice(values, size=count, replace=False)
        starts.append((equal, means, spread**2 * np.exp(2 * generator.uniform(math.log(0.03), 0.0, count))))
    wide_means = np.linspace(values[0], values[-1], count + 1)[1:-1] if count > 2 else [values.mean()]
    for quantile in np.quantile(values, QUANTILES):
        means = np.array([quantile, *wide_means])
        starts.append((equal, means, spread**2 * np.array([0.01] + [1.0] * (count - 1))))
    if also is not None and also.kind == kind and not also.degenerate:
        known = np.array([[item.weight, item.mean, item.std**2] for item in also.components])
        starts.append((known[:, 0], known[:, 1], known[:, 2]))
    weights, means, variances = (np.stack(items) for items in zip(*starts, strict=True))
    return Fits(weights, means, np.maximum(variances, VARIANCE_FLOOR))


def _clusters(values: NDArray, count: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return weights, means and variances of the clusters with the least squares, exactly, of order statistics of sorted ``values``.

    In one dimension clusters are intervals, so the best ones are found by trying all ends.
    """
    few = values[np.linspace(0, len(values) - 1, min(CLUSTERED, len(values))).round().astype(int)]
    sums, squares = (np.concatenate([[0.0], np.cumsum(items)]) for items in (few, few * few))

    def error(begin: NDArray | int, end: NDArray | int) -> NDArray:
        return squares[end] - squares[begin] - (sums[end] - sums[begin]) ** 2 / (end - begin)

    ends = np.stack([item + 1 for item in np.triu_indices(len(few) - 1, 1)] if count == 3 else [np.arange(1, len(few))])
    borders = [0, *ends, len(few)]
    best = int(np.sum([error(begin, end) for begin, end in pairwise(borders)], axis=0).argmin())
    parts = np.split(few, ends[:, best])
    shares = np.array([len(part) for part in parts]) / len(few)
    return shares, np.array([part.mean() for part in parts]), np.array([part.var() for part in parts])


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
