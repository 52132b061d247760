"""The epoch that is reported."""

from __future__ import annotations

import math

import pytest

from mm_balance.functional.selection import best_epoch, last

RECORDS = [{"val/accuracy": value} for value in (0.2, 0.7, 0.5, 0.7)]


def test_first_best_wins_ties():
    assert best_epoch(RECORDS, "val/accuracy") == 1
    assert last(RECORDS) == 3


def test_missing_and_diverged_epochs_never_win():
    records = [{}, {"val/accuracy": math.nan}, {"val/accuracy": 0.1}, {"other": 9.0}]
    assert best_epoch(records, "val/accuracy") == 2


@pytest.mark.parametrize("records", [[], [{}], [{"val/accuracy": math.nan}]])
def test_nothing_to_choose_from(records):
    with pytest.raises(ValueError, match="val/accuracy"):
        best_epoch(records, "val/accuracy")


def test_last_of_nothing():
    with pytest.raises(ValueError, match="no record"):
        last([])
