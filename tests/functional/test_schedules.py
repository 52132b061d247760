"""Schedules against tables worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_balance.functional.schedules import anneal, learning_rate_factor

TABLE = {
    # fractions 0, 1/4, 1/2, 1 from 1.0 down to 0.01
    "constant": (1.0, 1.0, 1.0, 1.0),
    # 1 - 0.99 t
    "linear": (1.0, 0.7525, 0.505, 0.01),
    # 0.01 + 0.99 (1 + cos(pi t)) / 2; (1 + cos(pi/4)) / 2 = 0.8535533906
    "cosine": (1.0, 0.8550178567, 0.505, 0.01),
    # 0.01 ** t = 10 ** (-2 t); at 1/4 it is 1 / sqrt(10)
    "exponential": (1.0, 0.3162277660, 0.1, 0.01),
}


@pytest.mark.parametrize("kind", TABLE)
def test_annealing_table(kind):
    values = [anneal(kind, fraction, 1.0, 0.01) for fraction in (0, 0.25, 0.5, 1)]
    assert values == pytest.approx(TABLE[kind], abs=1e-9)
    assert all(type(value) is float for value in values)


@given(
    kind=st.sampled_from(["linear", "cosine", "exponential"]),
    first=st.floats(0, 1),
    second=st.floats(0, 1),
    start=st.floats(0.01, 10),
    end=st.floats(0.01, 10),
)
def test_annealing_is_monotone_between_its_ends(kind, first, second, start, end):
    early, late = (anneal(kind, fraction, start, end) for fraction in sorted((first, second)))
    low, high = min(start, end), max(start, end)
    assert low - 1e-9 <= min(early, late) <= max(early, late) <= high + 1e-9
    assert (late - early) * (end - start) >= -1e-12


def test_annealing_may_start_or_end_at_zero_unless_exponential():
    assert anneal("linear", 1.0, 1.0, 0.0) == 0.0
    assert anneal("cosine", 1.0, 1.0, 0.0) == 0.0
    for start, end in ((1.0, 0.0), (0.0, 1.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="positive"):
            anneal("exponential", 0.5, start, end)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan")])
def test_annealing_refuses_a_fraction_outside_the_stage(fraction):
    with pytest.raises(ValueError, match="fraction"):
        anneal("constant", fraction, 1.0, 0.1)


def test_unknown_kinds_list_the_known_ones():
    with pytest.raises(ValueError, match="constant, linear, cosine or exponential"):
        anneal("square", 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="constant, step or cosine"):
        factor("square", 0)


def factor(schedule, epoch, *, first_epoch=0, stage_epochs=8, hold=0, step=70):
    return learning_rate_factor(
        schedule, epoch=epoch, first_epoch=first_epoch, stage_epochs=stage_epochs, hold=hold, step=step, decay=0.1
    )


def test_learning_rate_factors():
    assert factor("constant", 500) == 1.0
    # 69 // 70 = 0, 70 // 70 = 1, 140 // 70 = 2
    assert [factor("step", epoch) for epoch in (0, 69, 70, 139, 140)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert [factor("cosine", epoch) for epoch in (0, 4, 8)] == pytest.approx([1.0, 0.5, 0.0])
    assert [factor("cosine", epoch, first_epoch=6) for epoch in (6, 10, 14)] == pytest.approx([1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="at least 1"):
        factor("step", 1, step=0)


def test_a_held_rate_falls_later_and_as_far():
    # Held for 4 of 8 epochs: then 1/4, 1/2, 3/4 of the way, (1 + cos(pi/4)) / 2 = 0.8535533906.
    held = [factor("cosine", epoch, hold=4) for epoch in (0, 3, 4, 5, 6, 8)]
    assert held == pytest.approx([1.0, 1.0, 1.0, 0.8535533906, 0.5, 0.0])
    assert [factor("cosine", epoch, hold=8) for epoch in (0, 7)] == [1.0, 1.0]


@given(hold=st.integers(0, 20), epochs=st.integers(1, 30))
def test_one_stage_that_holds_has_the_rates_of_two_stages(hold, epochs):
    together = [factor("cosine", epoch, stage_epochs=hold + epochs, hold=hold) for epoch in range(hold, hold + epochs)]
    for given_hold in (0, hold):
        second = [
            factor("cosine", epoch, first_epoch=hold, stage_epochs=epochs, hold=given_hold)
            for epoch in range(hold, hold + epochs)
        ]
        assert second == together
    # Without holding it is the share of the stage that is done, to the last bit.
    plain = [0.5 * (1 + math.cos(math.pi * (epoch / epochs))) for epoch in range(epochs)]
    assert second == plain
