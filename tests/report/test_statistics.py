"""Statistics of a table against values worked out by hand and by scipy."""

import math

import pytest
from scipy import stats

from mm_balance.report.statistics import adjusted, difference, spread


def test_spread_is_that_of_a_sample():
    found = spread([0.9, 0.92, 0.94])
    assert (found.mean, found.n) == (pytest.approx(0.92), 3)
    assert found.deviation == pytest.approx(0.02)
    assert math.isnan(spread([0.9]).deviation)
    assert spread([]) is None


def test_differences_are_paired_by_seed_over_the_seeds_that_both_have():
    found = difference({1: 0.91, 2: 0.93, 3: 0.93, 9: 0.1}, {1: 0.90, 2: 0.92, 3: 0.91, 8: 0.9})
    assert found.n == 3
    assert found.mean == pytest.approx(0.04 / 3)
    reference = stats.ttest_rel([0.91, 0.93, 0.93], [0.90, 0.92, 0.91])
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p == pytest.approx(reference.pvalue)
    assert difference({1: 0.9}, {2: 0.9}) is None


def test_holm_adjusts_over_the_rows_that_are_tests():
    first = difference({1: 1.0, 2: 1.1, 3: 1.0}, {1: 0.0, 2: 0.0, 3: 0.0})
    second = difference({1: 1.0, 2: -1.0, 3: 0.5}, {1: 0.0, 2: 0.0, 3: 0.0})
    single = difference({1: 1.0}, {1: 0.0})
    found = adjusted([first, None, single, second])
    assert found[0].adjusted == pytest.approx(2 * first.p)
    assert found[0].distinct
    assert found[1] is None
    assert found[2].adjusted is None
    assert not found[2].distinct
    assert found[3].adjusted == pytest.approx(second.p)
