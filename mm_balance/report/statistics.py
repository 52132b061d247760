"""Statistics over seeds. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from mm_balance.functional.metrics import holm, paired_interval, paired_p_value


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (n - 1; NaN for a single value) and number of values."""

    mean: float
    deviation: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of differences paired by seed, with its unadjusted 95 % interval (Student's t).

    Attributes:
        mean: mean difference.
        low: lower end; -inf for a single pair.
        high: upper end.
        n: number of pairs.
        p: two-sided p-value of mean 0.
        adjusted: the same, adjusted for all tests of a table (Holm); None = not adjusted yet.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float
    adjusted: float | None = None

    @property
    def distinct(self) -> bool:
        """Whether it differs from 0 after the adjustment, at the level of 5 %."""
        return self.adjusted is not None and self.adjusted < 0.05


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and standard deviation; None if there is no value."""
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def difference(values: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """Return ``values`` minus ``base`` (both seed -> value) over the seeds that both have; None if they share none."""
    shared = sorted(values.keys() & base.keys())
    differences = np.array([values[seed] - base[seed] for seed in shared])
    if not len(shared) or not np.isfinite(differences).all():
        return None
    mean, low, high = paired_interval(differences)
    return Difference(mean, low, high, len(shared), paired_p_value(differences))


def adjusted(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Adjust the p-values of one family of tests by Holm's method; a single pair of seeds is no test."""
    tested = [item for item in differences if item is not None and item.n > 1]
    values = iter(holm([item.p for item in tested]))
    return [replace(item, adjusted=next(values)) if item is not None and item.n > 1 else item for item in differences]
