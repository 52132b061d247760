"""Expectation-maximization of Gaussian mixtures in one dimension: many starts at once, on points or on a histogram of them.

Method: the plain iteration (Dempster et al., JRSS B 39, 1977), accelerated by squared extrapolation (SQUAREM, Varadhan and Roland,
Scand. J. Statist. 35, 2008, scheme S3; a step that lowers the likelihood is not taken). Pure functions of NumPy arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOG_TWO_PI = math.log(2 * math.pi)
SMALLEST_WEIGHT = 1e-12
LONGEST_JUMP = 32.0
"""Most plain steps that one extrapolation may stand for."""
BLOCK = 1 << 14
"""Points at a time: their log densities fit into a cache of the processor."""


@dataclass(frozen=True)
class Points:
    """Weighted points, as sufficient statistics of the data that they stand for.

    Attributes:
        powers: ``(3, points)``: 1, mean and mean square of the data in each.
        moments: ``(points, 3)``: the same, times the point's share of all data.
    """

    powers: Array
    moments: Array

    @classmethod
    def of(cls, mean: Array, square: Array, share: Array | float) -> Points:
        """Return points from means, mean squares and shares, each ``(points,)``."""
        powers = np.stack([np.ones_like(mean), mean, square])
        return cls(powers, np.ascontiguousarray((powers * share).T))

    @classmethod
    def all(cls, values: Array) -> Points:
        """Return each of ``values`` ``(samples,)`` as a point."""
        return cls.of(values, values * values, 1 / len(values))

    @classmethod
    def order_statistics(cls, values: Array, count: int) -> Points:
        """Return ``count`` evenly spaced ones of sorted ``values``, or all if there are fewer."""
        return cls.all(values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)])

    @classmethod
    def histogram(cls, values: Array, bins: int) -> Points:
        """Return the bins of equal width that sorted ``values`` fall into, or ``values`` themselves if there are no more of them.

        A bin keeps the mean and the mean square of its values, so weights, means and variances lose nothing; only the responsibilities
        are common to a bin. The log-likelihood is therefore a lower bound of that of the values (Jensen).
        """
        if len(values) <= bins:
            return cls.all(values)
        edges = np.linspace(values[0], values[-1], bins + 1)[1:-1]
        first = np.unique(np.concatenate([[0], np.searchsorted(values, edges)]))
        first = first[first < len(values)]
        counts = np.diff(np.append(first, len(values)))
        mean, square = (np.add.reduceat(items, first) / counts for items in (values, values * values))
        return cls.of(mean, square, counts / len(values))


@dataclass(frozen=True)
class Fits:
    """Mixtures, one per start: weights, means and variances, each ``(starts, components)``."""

    weights: Array
    means: Array
    variances: Array

    def chosen(self, which: list[int] | NDArray[np.intp]) -> Fits:
        """Return these starts."""
        return Fits(self.weights[which], self.means[which], self.variances[which])

    def with_changed(self, which: NDArray[np.intp], changed: Fits) -> Fits:
        """Return all starts, of which those at ``which`` are taken from ``changed``."""
        copy = Fits(self.weights.copy(), self.means.copy(), self.variances.copy())
        copy.weights[which], copy.means[which], copy.variances[which] = (
            changed.weights,
            changed.means,
            changed.variances,
        )
        return copy

    def where(self, mask: NDArray[np.bool_], other: Fits) -> Fits:
        """Return these for starts where ``mask`` ``(starts,)`` is true, and ``other`` elsewhere."""
        taken = mask[:, None]
        return Fits(
            np.where(taken, self.weights, other.weights),
            np.where(taken, self.means, other.means),
            np.where(taken, self.variances, other.variances),
        )


def one_step(points: Points, fits: Fits, floor: float) -> tuple[Fits, Array]:
    """Perform one plain step of every start.

    Args:
        points: the data.
        fits: current parameters.
        floor: added to every variance, as scikit-learn's ``reg_covar``.

    Returns:
        The new parameters, and the log-likelihood of the *current* ones: mean over the data in nats, ``(starts,)``.
    """
    starts, components = fits.weights.shape
    precision = 1 / fits.variances
    constant = np.log(fits.weights) - 0.5 * (LOG_TWO_PI + np.log(fits.variances) + fits.means**2 * precision)
    # The log of weight times density is a polynomial of the point: one matrix product for all starts and components.
    coefficients = np.stack([constant, fits.means * precision, -0.5 * precision], axis=-1).reshape(-1, 3)
    moments, log_likelihood = np.zeros((starts * components, 3)), np.zeros(starts)
    for begin in range(0, points.powers.shape[1], BLOCK):
        block = slice(begin, begin + BLOCK)
        joint = (coefficients @ points.powers[:, block]).reshape(starts, components, -1)
        highest = joint.max(axis=1, keepdims=True)
        joint -= highest
        np.exp(joint, out=joint)
        total = joint.sum(axis=1, keepdims=True)
        joint /= total
        log_likelihood += (np.log(total[:, 0]) + highest[:, 0]) @ points.moments[block, 0]
        moments += joint.reshape(starts * components, -1) @ points.moments[block]
    mass, first, second = (moments[:, power].reshape(starts, components) for power in range(3))
    mass = np.maximum(mass, SMALLEST_WEIGHT)
    means = first / mass
    variances = np.maximum(second / mass - means**2, 0.0) + floor
    return Fits(mass / mass.sum(axis=1, keepdims=True), means, variances), log_likelihood


def converge(points: Points, fits: Fits, *, floor: float, tolerance: float, most_steps: int) -> tuple[Fits, Array]:
    """Iterate every start to its fixed point, and return the parameters and their log-likelihoods ``(starts,)``.

    With the floor added to the variances, the likelihood can fall a little on the way to the fixed point, and it hardly rises on
    plateaus that lead to a better one. So the parameters decide when to end.

    Args:
        points: the data.
        fits: the starts.
        floor: see ``one_step``.
        tolerance: a start ends when a plain step changes none of its parameters by more: no weight, no mean in standard deviations,
            and no logarithm of a standard deviation.
        most_steps: bound on the number of steps.
    """
    ended, active = fits, np.arange(len(fits.weights))
    for _ in range(max(most_steps // 3, 1)):
        first, _ = one_step(points, fits, floor)
        second, after = one_step(points, first, floor)
        third, far = one_step(points, _extrapolated(fits, first, second, floor), floor)
        fits = third.where(far >= after, second)  # false for NaN
        ended = ended.with_changed(active, fits)
        moving = np.flatnonzero(_largest_change(first, second) >= tolerance)
        if not len(moving):
            break
        fits, active = fits.chosen(moving), active[moving]
    return ended, one_step(points, ended, floor)[1]


def _largest_change(first: Fits, second: Fits) -> Array:
    """Return the largest change of any parameter of each start, ``(starts,)``."""
    changes = (
        second.weights - first.weights,
        (second.means - first.means) / np.sqrt(first.variances),
        0.5 * np.log(second.variances / first.variances),
    )
    return np.abs(np.concatenate(changes, axis=1)).max(axis=1)


def _extrapolated(start: Fits, first: Fits, second: Fits, floor: float) -> Fits:
    """Return where two plain steps lead if they go on like that; in logarithms of weights and variances."""
    points = [
        np.concatenate([np.log(item.weights), item.means, np.log(item.variances)], axis=1)
        for item in (start, first, second)
    ]
    change = points[1] - points[0]
    bend = points[2] - points[1] - change
    sizes = [np.sqrt((item**2).sum(axis=1, keepdims=True)) for item in (change, bend)]
    length = np.clip(sizes[0] / np.maximum(sizes[1], 1e-300), 1.0, LONGEST_JUMP)
    jumped = points[0] + 2 * length * change + length**2 * bend
    weights, means, variances = np.split(jumped, 3, axis=1)
    weights = np.maximum(np.exp(weights - weights.max(axis=1, keepdims=True)), SMALLEST_WEIGHT)
    return Fits(
        weights / weights.sum(axis=1, keepdims=True), means, np.maximum(np.exp(np.minimum(variances, 50.0)), floor)
    )
