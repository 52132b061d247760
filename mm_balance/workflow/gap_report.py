"""What the gaps say, in words: a table of the refits, who is ahead, and what to distrust.

Gaps of training samples shrink because the network memorizes these samples. Only those of validation say whether a modality still
lags behind, so every statement here puts the two side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mm_balance import names
from mm_balance.config import options
from mm_balance.engine.recorder import MetricPoint
from mm_balance.types import GapFit

EVEN = 0.02
"""Absolute mean gap up to which no modality is called ahead."""
MEMORIZED = 0.5
"""Training gaps are called memorized if their mean absolute value is below this share of that on validation."""
NOTICEABLE = 0.05
"""Mean absolute validation gap from which memorized training gaps are worth a warning."""
OFF_CENTER = 0.1
"""Absolute mean from which the balanced component counts as far from zero."""
BALANCED_IN_FACT = 0.1
"""Absolute gap below which a sample called imbalanced is balanced by any practical standard."""


SOURCES = {
    "refit": "those of the network at each refit, which has trained on these samples",
    "running": "those of running means of the probabilities that training saw, epoch by epoch",
    "cross_fitted": "each from a copy of the network that never trained on that sample",
}
"""Value of ``gap_source`` -> what the gaps of the training samples are."""


def source_note(source: str) -> str:
    """Return which gaps of the training samples the mixture was fitted to, as a sentence."""
    return f"Gaps of the training samples are {SOURCES[source]} (`gap_source={source}`)."


def gap_table(points: Sequence[MetricPoint], validation: Mapping[int, Mapping[str, float]] | None = None) -> list[str]:
    """Return the refits of a stage as lines of a Markdown table, training beside validation.

    Args:
        points: the stage's points.
        validation: epoch -> validation metrics that its point lacks. The first row of a stage 2 is the fit that it starts from;
            the point of that epoch on validation is on the warm-up run.
    """
    rows = [
        "| epoch | mean gap, training | mean gap, validation | mean abs(gap), training | mean abs(gap), validation "
        "| density at 0, training | density at 0, validation | imbalanced weight, training | imbalanced mean, training |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for point in points:
        if "gap/mean" in point.metrics:
            value = {**(validation or {}).get(point.step, {}), **point.metrics}
            cells = [
                str(point.step),
                _cell(value, "gap/mean", "+.3f"),
                _cell(value, "val/gap_mean", "+.3f"),
                _cell(value, "gap/mean_abs", ".3f"),
                _cell(value, "val/gap_mean_abs", ".3f"),
                _cell(value, "gmm/density_at_zero", ".2f"),
                _cell(value, "val/density_at_zero", ".2f"),
                _cell(value, "gmm/imbalanced_weight", ".3f"),
                _cell(value, "gmm/imbalanced_mean", "+.3f"),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


@dataclass(frozen=True)
class GapWarning:
    """What to distrust about a fit.

    Attributes:
        text: in words, as Markdown.
        remedy: what the settings are for, in a few words; empty = there are none.
        settings: parameters that avoid it.
    """

    text: str
    remedy: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def gap_findings(
    metrics: Mapping[str, float], fit: GapFit | None, modalities: Sequence[str], mixture: str
) -> list[str]:
    """Return who is ahead, and warnings about the last refit, as items of a Markdown list.

    Args:
        metrics: metrics of the epoch of the last refit.
        fit: that refit; None = there was none.
        modalities: names as shown to the reader; the first one leads the gap.
        mixture: kind of mixture that was fitted.

    Example:
        >>> metrics = {"gap/mean": 0.0, "gap/mean_abs": 0.02, "val/gap_mean": 0.31, "val/gap_mean_abs": 0.4}
        >>> gap_findings(metrics, None, ["audio", "visual"], "two")[0]
        '- audio is ahead: mean gap +0.31 on validation, +0.00 on the training samples (probability of the true class, not accuracy).'
    """
    if "gap/mean" not in metrics or "val/gap_mean" not in metrics:
        return []
    on_validation, on_training = metrics["val/gap_mean"], metrics["gap/mean"]
    lines = [
        f"{who_is_ahead(on_validation, modalities)}: mean gap {signed(on_validation)} on validation, {signed(on_training)} on the "
        "training samples (probability of the true class, not accuracy)."
    ]
    return [f"- {line}" for line in (*lines, *(warning.text for warning in gap_warnings(metrics, fit, mixture)))]


def who_is_ahead(mean_gap: float, modalities: Sequence[str]) -> str:
    """Return which modality a mean gap says is ahead, as the beginning of a sentence; the first of ``modalities`` leads the gap."""
    if abs(mean_gap) <= EVEN:
        return "No modality is ahead on average"
    lead, *others = modalities
    ahead = lead if mean_gap > 0 else others[0] if len(others) == 1 else f"another modality than {lead}"
    return f"{ahead} is ahead"


def gap_warnings(metrics: Mapping[str, float], fit: GapFit | None, mixture: str) -> list[GapWarning]:
    """Return what to distrust about the last refit, with arguments as of ``gap_findings``."""
    if "gap/mean" not in metrics or "val/gap_mean" not in metrics:
        return []
    lines = []
    validation_abs, training_abs = metrics["val/gap_mean_abs"], metrics["gap/mean_abs"]
    source = "refit" if fit is None else fit.source
    if source != "cross_fitted" and validation_abs > NOTICEABLE and training_abs < MEMORIZED * validation_abs:
        text = (
            f"**The training samples are memorized**: their mean abs(gap) is {training_abs:.3f}, on validation {validation_abs:.3f}. "
            "Mixture, posterior and density at zero describe gaps that training has closed, not a network that is balanced. "
            "`gap_source=cross_fitted` measures gaps that are not memorized."
        )
        lines.append(GapWarning(text, "Gaps that are not memorized", {"gap_source": "cross_fitted"}))
    if fit is not None and not fit.mixture.degenerate:
        lines += mixture_warnings(fit, mixture)
    return lines


def remedies(warnings: Sequence[GapWarning]) -> list[tuple[str, Mapping[str, str]]]:
    """Return what avoids the warnings, as (what for, parameters); for each parameter only the first value that is named."""
    found: dict[str, tuple[str, Mapping[str, str]]] = {}
    for warning in warnings:
        for name in warning.settings:
            found.setdefault(name, (warning.remedy, warning.settings))
    return list(found.values())


def mixture_warnings(fit: GapFit, mixture: str) -> list[GapWarning]:
    """Return warnings about a fit, which must not be degenerate, whose mixture does not mean what its components are called."""
    lines = []
    center = fit.mixture.balanced.mean
    if mixture != "two_absolute" and abs(center) > OFF_CENTER:
        text = (
            f'**The "balanced" component is not balanced**: its mean gap is {signed(center)}. '
            "`mixture=two_absolute` fits absolute gaps instead."
        )
        lines.append(GapWarning(text, "A mixture of absolute gaps", {"mixture": "two_absolute"}))
    if not fit.mixture.posterior_monotone(fit.gaps):
        others = [kind for kind in reversed(options()["mixture"].choices) if kind not in ("two", mixture)]
        text = (
            "**The posterior is not monotone**: it falls somewhere as abs(gap) grows, so some samples with a larger gap count as more "
            f"balanced. {' or '.join(f'`mixture={kind}`' for kind in others)} may avoid this."
        )
        lines.append(GapWarning(text, "A mixture with another shape", {"mixture": others[0]}))
    imbalanced = fit.gaps[fit.posterior_imbalanced > 0.5].abs()
    if len(imbalanced) and float(imbalanced.min()) < BALANCED_IN_FACT:
        text = (
            f'**"Imbalanced" begins at abs(gap) {float(imbalanced.min()):.2g}**, which is small: '
            f"{len(imbalanced):,} of {len(fit.gaps):,} training samples count as imbalanced."
        )
        lines.append(GapWarning(text))
    return lines


def _cell(values: Mapping[str, float], name: str, form: str) -> str:
    return format(values[name], form) if name in values else ""


def signed(value: float) -> str:
    """Return a gap with its sign, to two decimals; ``-0.00`` is ``+0.00``."""
    return f"{0.0 if abs(value) < 0.005 else value:+.2f}"


def doubts_note(fit: GapFit, truth: Mapping[str, float]) -> str:
    """Say how many samples the method doubts and where they are listed and, where corruption was planted, how right it is.

    Args:
        fit: the last refit, with doubts.
        truth: its metrics; those of ``names.DOUBT_METRICS`` if corruption was planted.
    """
    parts = []
    for name, doubt in fit.doubts.items():
        part = f"{name} of {int((doubt > 0.5).sum())}"
        if f"truth/doubt_corrupted_{name}" in truth:
            part += (
                f" (mean doubt {truth[f'truth/doubt_corrupted_{name}']:.2f} where it was corrupted, "
                f"{truth[f'truth/doubt_clean_{name}']:.2f} on clean samples)"
            )
        parts.append(part)
    table = f"`{names.refit_folder(fit.epoch)}/{names.GAPS_FILE}`"
    return (
        f"Doubted by more than 0.5, of {len(fit.gaps)} training samples: {', '.join(parts)}. Which ones: columns "
        f"{', '.join(f'`doubt_{name}`' for name in fit.doubts)} of {table}."
    )
