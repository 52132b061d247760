"""Tests of the paper's claims on the runs of the first result. Pure: data frame in, markdown out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mm_balance.functional.metrics import holm, paired_interval, paired_p_value

FULL = "adaptive (reconstructed, default)"
LEVEL = 0.05
TEST = "test, last epoch"


@dataclass(frozen=True)
class Finding:
    """One claim with its verdict and evidence.

    Attributes:
        claim: text of the claim.
        measured_at: split and epochs of the measurement.
        number: mean of the paired differences with its unadjusted 95 % interval and the number of seeds.
        mean: mean difference, > 0 on the claimed side; NaN = not tested.
        p: unadjusted two-sided p-value; None = not tested.
        adjusted: p-value adjusted for all tests of the table (Holm); None = not tested.
        verdict: conclusion.
    """

    claim: str
    measured_at: str
    number: str
    mean: float = math.nan
    p: float | None = None
    adjusted: float | None = None
    verdict: str = "not tested here"


def claims(frame: pd.DataFrame) -> list[Finding]:
    """Test all claims; a difference counts as shown if its p-value, adjusted over all tested rows, is below ``LEVEL``."""
    wide = frame.set_index(["row", "seed"]).sort_index()
    findings = [
        Finding(
            "Joint training is worse than the best single modality",
            "",
            "no modality was trained alone here: see `concat`, `audio_only`, `visual_only` in the table of all methods",
        )
    ]
    accuracy = _column(wide, "accuracy")
    for other, claim in (
        ("joint", "The adaptive loss beats joint training (fused)"),
        ("control", "(ours) It beats joint training + unimodal losses (fused)"),
        ("without alpha (gap)", "The gap term helps (alpha)"),
        ("without beta (shift)", "The shift term helps (beta)"),
        ("without gamma (hard)", "The hard-sample term helps (gamma)"),
        ("posterior weighting none", "Posterior weights help (against both set to 1, as in Table 2)"),
        ("posterior weighting prior", "(ours) Posterior weights help (against the same mean weight for all)"),
        ("SGD, state kept", "SGD: resetting the optimizer's state beats keeping it"),
        ("Adam, state reset", "SGD (0.02) beats Adam (0.001, not tuned), both reset"),
    ):
        findings.append(_compare(claim, accuracy(FULL), accuracy(other)))
    findings.append(
        _compare(
            "Adam (0.001, not tuned): resetting beats keeping",
            accuracy("Adam, state reset"),
            accuracy("Adam, state kept"),
        )
    )
    visual = _column(wide, "accuracy_visual")
    findings.append(_compare("(ours) The starved modality gains over joint training", visual(FULL), visual("joint")))
    findings.append(_compare("(ours) The starved modality gains over the control", visual(FULL), visual("control")))
    tuned = "adaptive, tuned", "control, tuned"
    for name, column in (("fused", accuracy), ("starved modality", visual)):
        findings.append(
            _compare(f"(ours) Both tuned: it beats joint training + unimodal losses ({name})", *map(column, tuned))
        )
    findings += _refits(wide)
    findings += _unimodal(wide)
    findings += _quality(wide)
    return judged(findings)


def judged(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with adjusted p-values and verdicts."""
    adjusted = iter(holm([item.p for item in findings if item.p is not None]))
    return [item if item.p is None else _verdict(item, next(adjusted)) for item in findings]


def _verdict(item: Finding, adjusted: float) -> Finding:
    direction = "holds" if item.mean > 0 else "does not hold: the opposite"
    return replace(item, adjusted=adjusted, verdict=direction if adjusted < LEVEL else "not shown")


def family_size(findings: Sequence[Finding]) -> int:
    """Return the number of tests that p-values are adjusted for."""
    return sum(item.p is not None for item in findings)


def claims_table(findings: Sequence[Finding]) -> list[str]:
    """Render the findings as a markdown table."""
    rows = [
        f"| {item.claim} | **{item.verdict}** | {item.measured_at} | {item.number} | "
        f"{'' if item.adjusted is None else f'{item.adjusted:.3f}'} |"
        for item in findings
    ]
    head = (
        "| claim | verdict on `digits` | measured at | difference [its 95 % interval] | "
        f"p adjusted for {family_size(findings)} tests |"
    )
    return [head, "|---|---|---|---|--:|", *rows]


def _column(wide: pd.DataFrame, name: str) -> Callable[[str], pd.Series]:
    empty = pd.Series(dtype=float)
    return lambda row: wide.loc[row][name] if row in wide.index.get_level_values(0) else empty


def _compare(
    claim: str,
    better: pd.Series,
    worse: pd.Series,
    scale: float = 100.0,
    unit: str = " points",
    measured_at: str = TEST,
    before: str = "",
) -> Finding:
    """Test the difference paired by seed, without a verdict yet; ``before`` is prepended to the number."""
    difference = (scale * (better - worse)).dropna()
    if len(difference) < 2:
        return Finding(claim, measured_at, "fewer than two seeds")
    mean, low, high = paired_interval(difference.to_numpy())
    number = f"{before}{mean:+.2f}{unit} [{low:+.2f}, {high:+.2f}], n = {len(difference)}"
    return Finding(claim, measured_at, number, mean, paired_p_value(difference.to_numpy()))


def _refits(wide: pd.DataFrame) -> list[Finding]:
    findings = []
    for row in (FULL, "control"):
        for claim, name, sign in (
            ("The imbalanced weight falls over the refits", "gmm/imbalanced_weight", -1),
            ("The imbalanced mean moves to zero (absolute value falls)", "gmm/imbalanced_mean", -1),
            ("Density at zero rises (paper: from 3.3 to above 20)", "gmm/density_at_zero", 1),
        ):
            first, last = _column(wide, f"first {name}")(row), _column(wide, f"last {name}")(row)
            if name.endswith("_mean"):
                first, last = first.abs(), last.abs()
            better, worse = (last, first) if sign > 0 else (first, last)
            before = f"{first.mean():.2f} -> {last.mean():.2f}; change "
            when = "train, first refit -> last refit"
            findings.append(_compare(f"{claim}: {row}", better, worse, 1.0, "", when, before))
    return findings


def _unimodal(wide: pd.DataFrame) -> list[Finding]:
    at = {
        (when, modality): _column(wide, f"{when} val/accuracy_{modality}")(FULL)
        for when in ("warm-up", "final")
        for modality in ("audio", "visual")
    }
    first = (at["warm-up", "audio"] - at["warm-up", "visual"]).abs()
    last = (at["final", "audio"] - at["final", "visual"]).abs()
    when = "validation, end of warm-up -> last epoch"
    before = f"difference {100 * first.mean():.1f} -> {100 * last.mean():.1f} points; change "
    claim = "Unimodal validation accuracies converge in the adaptive stage"
    converge = _compare(claim, first, last, measured_at=when, before=before)
    rises = [
        _compare(f"... and rise: {modality}", at["final", modality], at["warm-up", modality], measured_at=when)
        for modality in ("audio", "visual")
    ]
    return [converge, *rises]


def _quality(wide: pd.DataFrame) -> list[Finding]:
    """Compare detection of corruption at training refits; the last refit is not used in training."""

    def auc(name: str) -> pd.Series:
        return _column(wide, f"training auc all {name}")(FULL)

    loss = auc("-log p fused")
    return [
        _compare(
            f"(ours) {label} finds planted corruption better than -log p of the fused prediction",
            auc(name),
            loss,
            1.0,
            " AUC",
            "train, mean of the training refits",
        )
        for name, label in (
            ("posterior two", "Imbalanced samples are those of low quality: the posterior"),
            ("abs(gap)", "abs(gap)"),
        )
    ]
