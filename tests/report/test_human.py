"""Gaps of people from votes in the form of CREMA-D's summaryTable.csv, and their rank correlation with those of a network."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mm_balance.report.human import agreement, human_gap, share_of_votes


@pytest.mark.parametrize(
    ("votes", "letter", "share"), [("N", "N", 1), ("A", "N", 0), ("A:D", "D", 0.5), ("D:F:N:S", "F", 0.25)]
)
def test_ties_share_the_vote(votes, letter, share):
    assert share_of_votes(votes, letter) == share


def test_the_gap_of_people_is_voice_minus_face_for_the_true_emotion():
    samples = pd.DataFrame(
        {
            "sample": ["1001_IEO_NEU_XX", "1001_IEO_HAP_LO", "1001_IEO_ANG_HI", "1001_IEO_SAD_LO"],
            "label": ["NEU", "HAP", "ANG", "SAD"],
            "voice_vote": ["N", "N", "A:D", ""],
            "face_vote": ["N", "H", "D", "S"],
        }
    )
    gap = human_gap(samples)
    assert gap[:3].tolist() == [0.0, -1.0, 0.5]
    assert math.isnan(gap["1001_IEO_SAD_LO"])


def test_the_correlation_is_spearmans_over_the_clips_that_both_have():
    generator = np.random.default_rng(0)
    people = pd.Series(generator.choice([-1.0, 0.0, 1.0], 80), index=[f"s{number}" for number in range(80)])
    gaps = pd.Series(0.3 * people.to_numpy() + generator.normal(0, 0.5, 80), index=people.index)[10:]
    found = agreement(gaps.sample(frac=1, random_state=1), people)
    assert found.n == 70
    reference = stats.spearmanr(gaps, people[10:]).statistic
    assert found.correlation == pytest.approx(reference)
    half = 1.96 * math.sqrt((1 + reference**2 / 2) / 67)
    assert found.low == pytest.approx(math.tanh(math.atanh(reference) - half))
    assert found.low < found.correlation < found.high


def test_too_few_clips_or_constant_votes_give_no_interval():
    few = pd.Series([0.1, 0.2, 0.3], index=["a", "b", "c"])
    assert agreement(few, few) is None
    constant = pd.Series([0.0] * 6, index=list("abcdef"))
    assert math.isnan(agreement(pd.Series(range(6), index=list("abcdef"), dtype=float), constant).correlation)
