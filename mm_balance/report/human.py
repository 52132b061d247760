"""Does the network's modality gap agree with people? Votes on the voice alone against votes on the face alone (CREMA-D)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pandas as pd

VOICE, FACE = "voice_vote", "face_vote"


@dataclass(frozen=True)
class Agreement:
    """Rank correlation between the network's gap and that of people.

    Attributes:
        correlation: Spearman's, -1 to 1; NaN if either is constant.
        low: lower end of its 95 % interval (Fisher's transformation with the variance of Bonett and Wright, 2000).
        high: upper end.
        n: number of clips.
    """

    correlation: float
    low: float
    high: float
    n: int


def share_of_votes(votes: str, letter: str) -> float:
    """Return the share of a clip's label among the emotions that most people chose, 0 to 1: 1/k if it is one of k with equal votes.

    Args:
        votes: letters of these emotions, as ``N`` or ``A:D``.
        letter: that of the label.
    """
    chosen = re.findall(r"\w+", votes)
    return chosen.count(letter) / len(chosen) if chosen else math.nan


def human_gap(samples: pd.DataFrame) -> pd.Series:
    """Return voice minus face of the share of votes for the true label, -1 to 1, by sample; NaN where there are no votes.

    Args:
        samples: columns ``sample``, ``label`` (as ``NEU``), ``voice_vote``, ``face_vote``.
    """
    letters = samples["label"].astype(str).str[0]

    def shares(column: str) -> list[float]:
        votes = samples[column].fillna("").astype(str)
        return [share_of_votes(vote, letter) for vote, letter in zip(votes, letters, strict=True)]

    gap = pd.Series(shares(VOICE)) - pd.Series(shares(FACE))
    return pd.Series(gap.to_numpy(), index=samples["sample"].to_numpy())


def agreement(gaps: pd.Series, people: pd.Series) -> Agreement | None:
    """Correlate two gaps by sample; None if fewer than four samples have both.

    Args:
        gaps: sample -> gap of the network.
        people: sample -> gap of people.
    """
    both = pd.concat([gaps.rename("network"), people.rename("people")], axis=1, join="inner").dropna()
    if len(both) < 4:
        return None
    varied = both["network"].nunique() > 1 and both["people"].nunique() > 1
    correlation = float(both["network"].corr(both["people"], method="spearman")) if varied else math.nan
    if math.isnan(correlation) or abs(correlation) >= 1:
        return Agreement(correlation, correlation, correlation, len(both))
    half = 1.96 * math.sqrt((1 + correlation**2 / 2) / (len(both) - 3))
    middle = math.atanh(correlation)
    return Agreement(correlation, math.tanh(middle - half), math.tanh(middle + half), len(both))
