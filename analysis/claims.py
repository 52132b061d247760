"""The paper's claims, one by one, held against the runs of the first result. Pure: a frame in, markdown out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from mm_balance.functional.metrics import paired_interval

FULL = "adaptive (reconstructed, default)"


@dataclass(frozen=True)
class Finding:
    """One claim with its verdict and the number behind it."""

    claim: str
    verdict: str
    number: str


def claims(frame: pd.DataFrame) -> list[Finding]:
    """Verdicts by one rule: a difference holds where its paired 95 % interval lies on the claimed side of 0."""
    wide = frame.set_index(["row", "seed"]).sort_index()
    found = [
        Finding(
            "Joint training is worse than the best single modality",
            "not tested here",
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
        ("SGD, state kept", "SGD: resetting the optimiser's state beats keeping it"),
        ("Adam, state reset", "SGD (0.02) beats Adam (0.001, not tuned), both reset"),
    ):
        found.append(_compare(claim, accuracy(FULL), accuracy(other)))
    found.append(
        _compare(
            "Adam (0.001, not tuned): resetting beats keeping",
            accuracy("Adam, state reset"),
            accuracy("Adam, state kept"),
        )
    )
    visual = _column(wide, "accuracy_visual")
    found.append(_compare("(ours) The starved modality gains over joint training", visual(FULL), visual("joint")))
    found.append(_compare("(ours) The starved modality gains over the control", visual(FULL), visual("control")))
    tuned = "adaptive, tuned", "control, tuned"
    for name, column in (("fused", accuracy), ("starved modality", visual)):
        found.append(
            _compare(f"(ours) Both tuned: it beats joint training + unimodal losses ({name})", *map(column, tuned))
        )
    found += _refits(wide)
    found += _unimodal(wide)
    found += _quality(wide)
    return found


def claims_table(findings: Sequence[Finding]) -> list[str]:
    """Markdown rows."""
    rows = [f"| {item.claim} | **{item.verdict}** | {item.number} |" for item in findings]
    return ["| claim | verdict on `digits` | number |", "|---|---|---|", *rows]


def _column(wide: pd.DataFrame, name: str) -> Callable[[str], pd.Series]:
    empty = pd.Series(dtype=float)
    return lambda row: wide.loc[row][name] if row in wide.index.get_level_values(0) else empty


def _compare(claim: str, better: pd.Series, worse: pd.Series, scale: float = 100.0, unit: str = " points") -> Finding:
    difference = (scale * (better - worse)).dropna()
    if len(difference) < 2:
        return Finding(claim, "not tested here", "fewer than two seeds")
    mean, low, high = paired_interval(difference.to_numpy())
    verdict = (
        "holds" if low > 0 else "does not hold: the opposite" if high < 0 else "not shown: the interval contains 0"
    )
    return Finding(claim, verdict, f"{mean:+.2f}{unit} [{low:+.2f}, {high:+.2f}], n = {len(difference)}")


def _refits(wide: pd.DataFrame) -> list[Finding]:
    found = []
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
            finding = _compare(f"{claim}: {row}", better, worse, scale=1.0, unit="")
            found.append(
                Finding(
                    finding.claim, finding.verdict, f"{first.mean():.2f} -> {last.mean():.2f}; change {finding.number}"
                )
            )
    return found


def _unimodal(wide: pd.DataFrame) -> list[Finding]:
    at = {
        (when, modality): _column(wide, f"{when} val/accuracy_{modality}")(FULL)
        for when in ("warm-up", "final")
        for modality in ("audio", "visual")
    }
    before = (at["warm-up", "audio"] - at["warm-up", "visual"]).abs()
    after = (at["final", "audio"] - at["final", "visual"]).abs()
    converge = _compare("Unimodal validation accuracies converge in the adaptive stage", before, after)
    rises = [
        _compare(f"... and rise: {modality}", at["final", modality], at["warm-up", modality])
        for modality in ("audio", "visual")
    ]
    number = f"difference {100 * before.mean():.1f} -> {100 * after.mean():.1f} points; change {converge.number}"
    return [Finding(converge.claim, converge.verdict, number), *rises]


def _quality(wide: pd.DataFrame) -> list[Finding]:
    def auc(name: str) -> pd.Series:
        return _column(wide, f"auc all {name}")(FULL)

    loss = auc("-log p fused")
    return [
        _compare(
            f"(ours) {label} finds planted corruption better than -log p of the fused prediction",
            auc(name),
            loss,
            1.0,
            " AUC",
        )
        for name, label in (
            ("posterior two", "Imbalanced samples are those of low quality: the posterior"),
            ("abs(gap)", "abs(gap)"),
        )
    ]
