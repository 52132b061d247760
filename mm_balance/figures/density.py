"""One gap mixture fit over the histogram of the gaps (the paper's Fig. 2), and that of the validation samples below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mm_balance.figures.style import (
    BALANCED,
    BLACK,
    DARK_GRAY,
    DOTS_PER_INCH,
    GRAY,
    IMBALANCED,
    ORANGE,
    PURPLE,
    STYLE,
    add_caption,
)
from mm_balance.functional.mixture import VARIANCE_FLOOR

if TYPE_CHECKING:
    from mm_balance.functional.mixture import Mixture

BIN = 0.04
SMALLEST = 1e-300
"""Densities below are taken for this one, so that a single gap far from a mixture does not make its likelihood infinite."""
DOTTED = (0, (1, 1.2))
LOG_SCALE_ABOVE = 40.0
"""Peak density above which the density axis is logarithmic; on a linear axis, everything but such a peak would vanish."""


class Role(NamedTuple):
    """How a component is called and drawn. Line styles differ, too, so that curves can be told apart in gray."""

    name: str
    color: str
    line: str | tuple[int, tuple[float, ...]]


@matplotlib.rc_context(STYLE)
def mixture_density(
    gaps: np.ndarray,
    mixture: Mixture,
    *,
    title: str,
    validation: tuple[np.ndarray, Mixture] | None = None,
    leading: str = "audio",
    other: str = "visual",
    caption: str = "",
) -> Figure:
    """Draw the histogram of the gaps, the components, their sum, and the posterior on a right-hand axis.

    Args:
        gaps: ``(samples,)`` gaps in [-1, 1]; non-finite ones are left out and counted.
        mixture: mixture fit to the gaps.
        title: title of the figure.
        validation: gaps ``(samples,)`` of the validation samples and the mixture fit to them, for a second panel below, with a
            density scale of its own: a peak of memorized training gaps would flatten everything else.
        leading: modality that is ahead if the gap is positive.
        other: modality it is compared with.
        caption: data set and seed.

    Returns:
        The figure. A mixture of absolute gaps is drawn mirrored, half of its mass on each side of zero.
    """
    if validation is None:
        figure = Figure(figsize=(7.6, 5.6), dpi=DOTS_PER_INCH)
        axes = figure.add_axes((0.09, 0.37, 0.82, 0.55))
        _draw_panel(axes, gaps, mixture, leading, other)
        posterior = _draw_posterior(axes, mixture)
        _add_legend(figure, axes, gaps, mixture, [posterior], loc="lower left", anchor=(0.085, 0.01))
        axes.set_title(title, loc="left")
        axes.set_xlabel(gap_label(leading, other))
        add_caption(figure, caption)
        return figure
    figure = Figure(figsize=(12.0, 6.6), dpi=DOTS_PER_INCH)
    upper = figure.add_axes((0.055, 0.54, 0.475, 0.39))
    lower = figure.add_axes((0.055, 0.08, 0.475, 0.36))
    _draw_panel(upper, gaps, mixture, leading, other)
    posterior = _draw_posterior(upper, mixture)
    _add_legend(figure, upper, gaps, mixture, [posterior], loc="upper left", anchor=(0.595, 0.94))
    upper.set_title(f"{title}: training samples", loc="left")
    _draw_panel(lower, *validation, leading, other)
    points = grid(mixture)
    (training,) = lower.plot(
        points, mixture.density(points), color=DARK_GRAY, linewidth=0.9, linestyle=DOTTED, zorder=1.5
    )
    fit = held_out_log_likelihood(mixture, validation[0])
    training.set_label(f"sum of the training samples: log-likelihood {fit:+.2f} here")
    _add_legend(figure, lower, *validation, [], loc="upper left", anchor=(0.595, 0.45))
    lower.set_title("Validation samples, which cannot be memorized", loc="left")
    lower.set_xlabel(gap_label(leading, other), loc="left")  # long names would be cut off at the left
    add_caption(figure, caption)
    return figure


def held_out_log_likelihood(mixture: Mixture, gaps: np.ndarray) -> float:
    """Return the mean log-likelihood per sample of other gaps ``(samples,)`` than those it was fitted to; NaN if none is finite.

    Like ``Mixture.log_likelihood``, that of the absolute gaps for ``two_absolute``.
    """
    finite = finite_gaps(gaps)
    if not len(finite):
        return math.nan
    mirrored = 2.0 if mixture.kind == "two_absolute" else 1.0
    return float(np.log(np.maximum(mirrored * mixture.density(finite), SMALLEST)).mean())


def single_log_likelihood(values: np.ndarray) -> float:
    """Return the mean log-likelihood per sample of one Gaussian fitted to ``values`` (samples,), with the mixture's variance floor."""
    variance = float(values.var()) + VARIANCE_FLOOR
    return -0.5 * math.log(2 * math.pi * variance) - 0.5 * float(values.var()) / variance


def _draw_panel(axes: Axes, gaps: np.ndarray, mixture: Mixture, leading: str, other: str) -> None:
    finite = finite_gaps(gaps)
    points = grid(mixture)
    heights, edges = histogram(finite, mixture)
    axes.stairs(heights, edges, fill=True, color=GRAY, label=_gaps_label(finite))
    total = mixture.density(points)
    components = mixture.component_densities(points)
    for component, curve, role in zip(mixture.components, components, roles(mixture, leading, other), strict=True):
        numbers = f"weight {component.weight:.3f}, mean {component.mean:+.3f}, std {component.std:.3f}"
        axes.plot(points, curve, color=role.color, linestyle=role.line, label=f"{role.name}: {numbers}")
    axes.plot(points, total, color=BLACK, linewidth=1.2, linestyle="--", label=_total_label(mixture))
    axes.axvline(0.0, color=DARK_GRAY, linewidth=0.6, zorder=0)
    _scale_density(axes, float(total.max()), heights)
    axes.set_xlim(points[0], points[-1])


def _add_legend(
    figure: Figure,
    axes: Axes,
    gaps: np.ndarray,
    mixture: Mixture,
    more: Sequence[Line2D],
    *,
    loc: Literal["upper left", "lower left"],
    anchor: tuple[float, float],
) -> None:
    """Add the entries of ``axes`` and ``more``, below a sentence on the fit."""
    handles, _ = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles=[*handles, *more], title=_verdict(mixture, gaps), loc=loc, bbox_to_anchor=anchor,
        frameon=False, alignment="left", borderaxespad=0.0,
    )  # fmt: skip
    legend.get_title().set_fontweight("bold")


def finite_gaps(gaps: np.ndarray) -> np.ndarray:
    """Return the finite entries of ``gaps``, ``(samples,)``."""
    values = np.asarray(gaps, dtype=float)
    return values[np.isfinite(values)]


def grid(mixture: Mixture) -> np.ndarray:
    """Return points at which to evaluate the densities: evenly over [-1, 1], and densely around every component."""
    offsets = np.linspace(-5.0, 5.0, 81)  # in standard deviations; keeps sharp peaks smooth
    dense = [component.mean + component.std * offsets for component in mixture.components]
    if mixture.kind == "two_absolute":
        dense += [-points for points in dense]
    points = np.unique(np.concatenate([np.linspace(-1.0, 1.0, 401), *dense]))
    return points[np.abs(points) <= 1.0]


def histogram(values: np.ndarray, mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Compute a density histogram: heights ``(bins,)`` and edges ``(bins + 1,)`` over [-1, 1].

    Bins are 0.04 wide. Within five standard deviations of the highest component they are a third of a standard deviation wide if
    that is less, so that a sharp peak keeps its shape and bins elsewhere do not shrink to single samples.
    """
    edges = np.linspace(-1.0, 1.0, round(2.0 / BIN) + 1)
    highest = max(mixture.components, key=lambda component: component.weight / component.std)
    fine_width = highest.std / 3
    if fine_width < BIN:
        first, last = highest.mean - 5 * highest.std, highest.mean + 5 * highest.std
        if mixture.kind == "two_absolute":
            first = -last
        first, last = max(first, -1.0), min(last, 1.0)
        peak = np.linspace(first, last, max(round((last - first) / fine_width), 1) + 1)
        outside = (edges < first - BIN / 2) | (edges > last + BIN / 2)
        edges = np.unique(np.concatenate([[-1.0, 1.0], edges[outside], peak]))
    counts, _ = np.histogram(values, edges)
    return counts / (max(len(values), 1) * np.diff(edges)), edges


def roles(mixture: Mixture, leading: str, other: str) -> list[Role]:
    """Return the role of every component, in the order of ``mixture.components``."""
    found = []
    for index, component in enumerate(mixture.components):
        if index == mixture.balanced_index:
            found.append(Role("balanced", BALANCED, "-"))
        elif mixture.kind != "three":
            found.append(Role("imbalanced", IMBALANCED, "-."))
        elif component.mean > 0:
            found.append(Role(f"{leading} ahead", IMBALANCED, "-."))
        else:
            found.append(Role(f"{other} ahead", ORANGE, (0, (6, 1.5, 1, 1.5, 1, 1.5))))
    return found


def gap_label(leading: str, other: str) -> str:
    """Return the label of the gap axis, which explains the sign."""
    return f"← {other} ahead     modality gap  p({leading}) − p({other})     {leading} ahead →"


def _draw_posterior(axes: Axes, mixture: Mixture) -> Line2D:
    right = axes.twinx()
    points = grid(mixture)
    posterior = mixture.posterior_imbalanced(points)
    (line,) = right.plot(
        points, posterior, color=PURPLE, linestyle=":", label="posterior of imbalanced (right-hand axis)"
    )
    right.set_ylim(-0.02, 1.05)
    right.set_ylabel("posterior of imbalanced", color=PURPLE)
    right.tick_params(axis="y", colors=PURPLE)
    right.spines["left"].set_visible(False)
    right.spines["right"].set_visible(True)
    return line


def _scale_density(axes: Axes, peak: float, heights: np.ndarray) -> None:
    highest = max(peak, float(heights.max(initial=0.0)))
    if peak > LOG_SCALE_ABOVE:
        axes.set_yscale("log")
        axes.set_ylim(0.01, 2 * highest)
        axes.set_ylabel("density (log scale)")
    else:
        # A single bin far above the fit (many equal gaps) must not flatten the curves.
        axes.set_ylim(0.0, 1.08 * min(highest, 2 * peak))
        axes.set_ylabel("density")


def _gaps_label(finite: np.ndarray) -> str:
    label = f"gaps of {len(finite):,} samples"
    return f"{label}: mean {finite.mean():+.3f}, mean abs {np.abs(finite).mean():.3f}" if len(finite) else label


def _total_label(mixture: Mixture) -> str:
    return f"sum: density at zero {mixture.density_at_zero:.3g}"


def _verdict(mixture: Mixture, gaps: np.ndarray) -> str:
    """Return how well the mixture fits, and better than what."""
    finite = finite_gaps(gaps)
    dropped = len(gaps) - len(finite)
    if mixture.degenerate:
        text = "Degenerate fit: too few, constant or non-finite gaps"
    else:
        one = single_log_likelihood(np.abs(finite) if mixture.kind == "two_absolute" else finite)
        judgement = "Separated by BIC" if mixture.separated else "Not separated: by BIC, one Gaussian suffices"
        text = f"{judgement}\nLog-likelihood per sample {mixture.log_likelihood:+.2f}, of one Gaussian {one:+.2f}"
    if mixture.kind == "two_absolute":
        text += ", fitted to abs(gap)"
    return text + (f" (non-finite gaps left out: {dropped:,})" if dropped else "")
