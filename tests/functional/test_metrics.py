"""Scores against hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_balance.functional.metrics import (
    accuracy,
    binary_auc,
    holm,
    macro_f1,
    mean_average_precision,
    paired_interval,
    paired_p_value,
)

PROBABILITIES = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.7, 0.2], [0.3, 0.4, 0.3]])
LABELS = torch.tensor([0, 0, 1, 2])


def test_golden_numbers():
    # Predictions 0, 1, 1, 1. F1 of class 0: 2*1/(2*1+0+1) = 2/3; class 1: 2*1/(2*1+2+0) = 1/2; class 2: 0/1 = 0.
    # AP of class 0: ranked .6 (hit), .3, .2 (hit), .1: (1 + 2/3) / 2 = 5/6; class 1: .7 first: 1;
    # class 2: .3 and .3 tie, one of the two is a hit: precision 1/2.
    logits = PROBABILITIES.log()
    assert accuracy(logits, LABELS) == 0.5
    assert macro_f1(logits, LABELS) == pytest.approx(0.388889, abs=1e-6)
    assert mean_average_precision(logits, LABELS) == pytest.approx(0.777778, abs=1e-6)


def test_an_absent_class_counts_in_macro_f1_and_is_left_out_of_average_precision():
    wider = torch.cat([PROBABILITIES, torch.full((4, 1), 1e-6)], dim=1).log()
    assert macro_f1(wider, LABELS) == pytest.approx(0.388889 * 3 / 4, abs=1e-6)
    assert mean_average_precision(wider, LABELS) == pytest.approx(0.777778, abs=1e-6)


def test_scores_take_what_training_gives():
    logits = PROBABILITIES.log().bfloat16().requires_grad_()
    assert accuracy(logits, LABELS) == 0.5
    assert 0 < macro_f1(logits, LABELS) < 1
    assert 0 < mean_average_precision(logits, LABELS) < 1


def test_diverged_logits_give_a_number_or_nan_never_a_crash():
    logits = torch.full((4, 3), math.nan)
    assert 0 <= accuracy(logits, LABELS) <= 1
    assert 0 <= macro_f1(logits, LABELS) <= 1
    assert math.isnan(mean_average_precision(logits, LABELS))


@pytest.mark.parametrize("score", [accuracy, macro_f1, mean_average_precision])
@pytest.mark.parametrize("labels", [LABELS[:3], LABELS[:, None]])
def test_wrong_shapes(score, labels):
    with pytest.raises(ValueError, match="labels"):
        score(PROBABILITIES, labels)


@pytest.mark.parametrize("score", [accuracy, macro_f1, mean_average_precision])
def test_no_samples(score):
    with pytest.raises(ValueError, match="labels"):
        score(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_auc_by_hand():
    # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1 and 2 = 2, so (3 + 1/2) / 4.
    assert binary_auc(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([False, False, True, True])) == 0.875


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([-math.inf, 0.0, 1e-300, 0.5, 1.0, math.inf]), st.booleans()), min_size=2, max_size=12
    )
)
def test_auc_counts_pairs(rows):
    positives = [score for score, positive in rows if positive]
    negatives = [score for score, positive in rows if not positive]
    found = binary_auc(
        torch.tensor([row[0] for row in rows], dtype=torch.float64), torch.tensor([row[1] for row in rows])
    )
    if not positives or not negatives:
        assert math.isnan(found)
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert found == pytest.approx(wins / (len(positives) * len(negatives)))


def test_auc_edges():
    assert math.isnan(binary_auc(torch.tensor([math.nan, 1.0]), torch.tensor([True, False])))
    with pytest.raises(ValueError, match="positives"):
        binary_auc(torch.zeros(3), torch.ones(2, dtype=torch.bool))


def test_paired_interval_by_hand():
    # Mean 2, standard deviation 1, n = 3; t(0.975, 2) = 4.302653: half-width 4.302653 / sqrt(3) = 2.484138.
    assert paired_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)
    # t(0.95, 2) = 2.919986
    assert paired_interval(np.array([1, 2, 3]), level=0.9) == pytest.approx((2.0, 0.314145, 3.685855), abs=1e-6)
    assert paired_interval([2.0]) == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize(("differences", "level"), [([], 0.95), ([[1.0, 2.0]], 0.95), ([1.0, 2.0], 1.0)])
def test_paired_interval_refuses(differences, level):
    with pytest.raises(ValueError, match="differences"):
        paired_interval(differences, level)


def test_paired_p_value_by_hand():
    # t = 2 / (1 / sqrt 3) = sqrt 12; with two degrees of freedom P(|T| > t) = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    assert paired_p_value([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)
    assert paired_p_value([-3.0, -2.0, -1.0]) == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)
    # One degree of freedom (Cauchy): t = 2 / (sqrt 2 / sqrt 2) = 2; P(|T| > 2) = 1 - 2 atan(2) / pi.
    assert paired_p_value([1.0, 3.0]) == pytest.approx(1 - 2 * math.atan(2) / math.pi, abs=1e-12)
    assert paired_p_value([-1.0, 1.0]) == pytest.approx(1.0)
    assert paired_p_value([2.0]) == 1.0
    assert paired_p_value([0.0, 0.0]) == 1.0
    assert paired_p_value([0.5, 0.5]) == 0.0


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_p_value_and_the_interval_say_the_same(differences, level):
    _, low, high = paired_interval(differences, level)
    p = paired_p_value(differences)
    assert 0 <= p <= 1
    if abs(p - (1 - level)) > 1e-9 and low != high:
        assert (p < 1 - level) == (low > 0 or high < 0)


@pytest.mark.parametrize("differences", [[], [[1.0, 2.0]], [1.0, math.nan]])
def test_paired_p_value_refuses(differences):
    with pytest.raises(ValueError, match="differences"):
        paired_p_value(differences)


def test_holm_by_hand():
    # .005 * 4 = .02; .01 * 3 = .03; .03 * 2 = .06; .04 * 1 = .04, but never below the one before: .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # .5 * 3 is more than 1; equal values are adjusted alike: .02 * 3, and .02 * 2 raised to it.
    assert holm([0.5, 0.6, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([0.02, 0.5, 0.02]) == pytest.approx([0.06, 0.5, 0.06])
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_keeps_what_the_step_down_procedure_keeps(p_values, level):
    """The procedure as Holm states it: from the smallest, as long as p <= level / (tests left)."""
    kept, order = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
    for done, place in enumerate(order):
        if p_values[place] * (len(p_values) - done) > level:
            break
        kept.add(place)
    adjusted = holm(p_values)
    assert {place for place, value in enumerate(adjusted) if value <= level} == kept
    assert all(value >= p for value, p in zip(adjusted, p_values, strict=True))


@pytest.mark.parametrize("p_values", [[1.5], [-0.1, 0.2], [math.nan], [[0.1, 0.2]]])
def test_holm_refuses(p_values):
    with pytest.raises(ValueError, match="p-values"):
        holm(p_values)
