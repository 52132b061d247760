"""One gap mixture fit over the histogram of the gaps (the paper's Fig. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
)

if TYPE_CHECKING:
    from mm_balance.functional.mixture import Mixture

BIN = 0.04
LOG_SCALE_ABOVE = 40.0
"""Peak density above which the density axis is logarithmic; on a linear axis, everything but such a peak would vanish."""


@matplotlib.rc_context(STYLE)
def mixture_density(
    gaps: np.ndarray, mixture: Mixture, *, title: str, leading: str = "audio", other: str = "visual"
) -> Figure:
    """Draw the histogram of the gaps, the components, their sum, and the posterior on a right-hand axis.

    Args:
        gaps: ``(samples,)`` gaps in [-1, 1]; non-finite ones are left out and counted.
        mixture: mixture fit to the gaps.
        title: title of the figure.
        leading: modality that is ahead if the gap is positive.
        other: modality it is compared with.

    Returns:
        The figure. A mixture of absolute gaps is drawn mirrored, half of its mass on each side of zero.
    """
    figure = Figure(figsize=(7.6, 5.6), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.09, 0.37, 0.82, 0.55))
    finite = finite_gaps(gaps)
    points = grid(mixture)
    heights, edges = histogram(finite, mixture)
    axes.stairs(heights, edges, fill=True, color=GRAY, label=f"gaps of {len(finite):,} samples")
    total = mixture.density(points)
    components = mixture.component_densities(points)
    for component, curve, (name, color) in zip(
        mixture.components, components, roles(mixture, leading, other), strict=True
    ):
        numbers = f"weight {component.weight:.3f}, mean {component.mean:+.3f}, std {component.std:.3f}"
        axes.plot(points, curve, color=color, label=f"{name}: {numbers}")
    axes.plot(points, total, color=BLACK, linewidth=1.2, linestyle="--", label=_total_label(mixture))
    _scale_density(axes, float(total.max()), heights)
    axes.set_xlim(points[0], points[-1])
    axes.set_xlabel(gap_label(leading, other))
    axes.set_title(title, loc="left")
    posterior = _draw_posterior(axes, points, mixture)
    handles, _ = axes.get_legend_handles_labels()
    legend = figure.legend(
        handles=[*handles, posterior], title=_verdict(mixture, len(gaps) - len(finite)),
        loc="lower left", bbox_to_anchor=(0.085, 0.01), frameon=False, alignment="left", borderaxespad=0.0,
    )  # fmt: skip
    legend.get_title().set_fontweight("bold")
    return figure


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


def roles(mixture: Mixture, leading: str, other: str) -> list[tuple[str, str]]:
    """Return name and color of every component, in the order of ``mixture.components``."""
    names_and_colors = []
    for index, component in enumerate(mixture.components):
        if index == mixture.balanced_index:
            names_and_colors.append(("balanced", BALANCED))
        elif mixture.kind != "three":
            names_and_colors.append(("imbalanced", IMBALANCED))
        elif component.mean > 0:
            names_and_colors.append((f"{leading} ahead", IMBALANCED))
        else:
            names_and_colors.append((f"{other} ahead", ORANGE))
    return names_and_colors


def gap_label(leading: str, other: str) -> str:
    """Return the label of the gap axis, which explains the sign."""
    return f"← {other} ahead     modality gap  p({leading}) − p({other})     {leading} ahead →"


def _draw_posterior(axes: Axes, points: np.ndarray, mixture: Mixture) -> Line2D:
    right = axes.twinx()
    posterior = mixture.posterior_imbalanced(points)
    (line,) = right.plot(
        points, posterior, color=PURPLE, linestyle=":", label="posterior of imbalanced (right-hand axis)"
    )
    right.set_ylim(-0.02, 1.05)
    right.set_ylabel("posterior of imbalanced", color=PURPLE)
    right.tick_params(axis="y", colors=PURPLE)
    right.spines["left"].set_visible(False)
    right.spines["right"].set_visible(True)
    axes.axvline(0.0, color=DARK_GRAY, linewidth=0.6, zorder=0)
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


def _total_label(mixture: Mixture) -> str:
    return f"sum: density at zero {mixture.density_at_zero:.3g}"


def _verdict(mixture: Mixture, dropped: int) -> str:
    if mixture.degenerate:
        text = "Degenerate fit: too few, constant or non-finite gaps"
    elif mixture.separated:
        text = "Separated: the mixture beats one Gaussian by BIC"
    else:
        text = "Not separated: by BIC, one Gaussian suffices"
    if mixture.kind == "two_absolute":
        text += ", fitted to abs(gap)"
    return text + (f" (non-finite gaps left out: {dropped:,})" if dropped else "")
