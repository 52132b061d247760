"""Numbers that the paper reports (arXiv 2510.21797v1, Tables 1 to 3): single runs, so each has a binomial standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TEST_CLIPS = {"CREMA-D": 744, "AVE": 402}
"""Data set -> clips of its test split: the scores are multiples of one over these."""


@dataclass(frozen=True)
class CitedNumber:
    """A reported accuracy.

    Attributes:
        percent: the accuracy, 0 to 100.
        clips: number of test clips.
    """

    percent: float
    clips: int

    @property
    def error(self) -> float:
        """Binomial standard error, percent: what another test set of this size would move a score by."""
        share = self.percent / 100
        return 100 * math.sqrt(share * (1 - share) / self.clips)


def _of(cremad: float | None, ave: float | None) -> Mapping[str, CitedNumber]:
    found = {"CREMA-D": cremad, "AVE": ave}
    return {
        f"paper, {name}": CitedNumber(value, TEST_CLIPS[name]) for name, value in found.items() if value is not None
    }


METHODS: Mapping[str, Mapping[str, CitedNumber]] = {
    "concat": _of(67.47, 64.56),
    "g_blending": _of(69.89, None),
    "ogm_ge": _of(68.95, 66.14),
    "greedy": _of(68.37, None),
    "pmr": _of(68.55, 67.72),
    "agm": _of(70.16, None),
    "mla": _of(79.70, None),
    "diagnose_relearn": _of(75.13, None),
    "opm_ogm": _of(75.10, None),
    "gap_mixture": _of(80.65, 70.90),
}
"""Table 1: method -> accuracy."""
FULL = _of(80.65, 70.90)
"""The whole method, the first row of Table 2."""
WITHOUT_POSTERIOR = _of(77.42, 67.16)
"""Table 2, without posterior weights."""
WITHOUT_A_TERM = {"CREMA-D": (76.88, 79.30, 78.63), "AVE": (63.93, 68.66, 68.66)}
"""Table 2, without one of the three terms, in its order; which of them is gap, shift and hard term is lost."""
OPTIMIZERS: Mapping[tuple[str, str], Mapping[str, CitedNumber]] = {
    ("sgd", "reset"): _of(80.65, 70.90),
    ("adam", "reset"): _of(79.91, 70.90),
    ("sgd", "keep"): _of(78.76, 67.91),
    ("adam", "keep"): _of(75.67, 66.67),
}
"""Table 3: optimizer, and what becomes of its state at the second stage -> accuracy."""
