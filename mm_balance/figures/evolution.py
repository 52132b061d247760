"""Evolution of the gap mixture over the refits (the paper's Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_balance.figures.density import finite_gaps, gap_label, grid, histogram, roles
from mm_balance.figures.style import BALANCED, BLACK, DARK_GRAY, DOTS_PER_INCH, GRAY, IMBALANCED, STYLE, epoch_ticks

if TYPE_CHECKING:
    from mm_balance.functional.mixture import Mixture

MOST_PANELS = 6


@matplotlib.rc_context(STYLE)
def mixture_evolution(
    refits: Sequence[tuple[int, np.ndarray, Mixture]], *, leading: str = "audio", other: str = "visual"
) -> Figure:
    """Draw the density at each refit in stacked panels, and three statistics over all refits on the right.

    Args:
        refits: epoch, gaps ``(samples,)`` and mixture of each refit, in order of epochs, all of the same mixture kind.
            If there are more than six, six evenly spaced ones get panels, including the first and the last.
        leading: modality that is ahead if the gap is positive.
        other: modality it is compared with.

    Raises:
        ValueError: ``refits`` is empty.
    """
    if not refits:
        raise ValueError("nothing to draw: pass at least one refit")
    chosen = sorted({round(number) for number in np.linspace(0, len(refits) - 1, min(len(refits), MOST_PANELS))})
    figure = Figure(figsize=(9.6, max(1.2 + 1.05 * len(chosen), 4.4)), dpi=DOTS_PER_INCH)
    height = figure.get_figheight()
    top, bottom = 1 - 0.75 / height, 0.55 / height
    left = figure.add_gridspec(len(chosen), 1, left=0.07, right=0.6, top=top, bottom=bottom, hspace=0.25)
    panels = list(left.subplots(sharex=True, squeeze=False)[:, 0])
    for axes, number in zip(panels, chosen, strict=True):
        epoch, gaps, mixture = refits[number]
        _draw_refit(axes, epoch, gaps, mixture, leading, other)
    panels[-1].set_xlabel(gap_label(leading, other))
    handles, labels = _first_of_each_label(panels)
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.062, 1 - 0.36 / height), ncols=5, frameon=False,
        borderaxespad=0.0, columnspacing=1.2,
    )  # fmt: skip
    right = figure.add_gridspec(3, 1, left=0.7, right=0.98, top=top, bottom=bottom, hspace=0.45)
    _draw_statistics(list(right.subplots(sharex=True, squeeze=False)[:, 0]), refits)
    figure.suptitle("Modality gap and its mixture over training", x=0.07, y=1 - 0.12 / height, ha="left", va="top")
    return figure


def _draw_refit(axes: Axes, epoch: int, gaps: np.ndarray, mixture: Mixture, leading: str, other: str) -> None:
    points = grid(mixture)
    heights, edges = histogram(finite_gaps(gaps), mixture)
    axes.stairs(heights, edges, fill=True, color=GRAY, label="gaps")
    for curve, (name, color) in zip(mixture.component_densities(points), roles(mixture, leading, other), strict=True):
        axes.plot(points, curve, color=color, linewidth=1.4, label=name)
    total = mixture.density(points)
    axes.plot(points, total, color=BLACK, linewidth=1.0, linestyle="--", label="sum")
    axes.axvline(0.0, color=DARK_GRAY, linewidth=0.6, zorder=0)
    axes.set_xlim(points[0], points[-1])
    # Each panel has its own scale: the peak grows so much that early panels would be flat on a shared one.
    axes.set_ylim(0.0, 1.1 * min(max(total.max(), heights.max(initial=0.0)), 2 * total.max()))
    axes.locator_params(axis="y", nbins=3)
    axes.text(0.01, 0.9, f"epoch {epoch}", transform=axes.transAxes, ha="left", va="top", fontweight="bold")
    axes.text(
        0.99, 0.9, f"density at zero {mixture.density_at_zero:.3g}", transform=axes.transAxes, ha="right", va="top",
        fontsize=9, color=DARK_GRAY,
    )  # fmt: skip


def _draw_statistics(panels: Sequence[Axes], refits: Sequence[tuple[int, np.ndarray, Mixture]]) -> None:
    epochs = [epoch for epoch, _, _ in refits]
    mixtures = [mixture for _, _, mixture in refits]
    series = (
        ("weight of imbalanced", [mixture.imbalanced.weight for mixture in mixtures], IMBALANCED),
        ("mean of imbalanced", [mixture.imbalanced.mean for mixture in mixtures], IMBALANCED),
        ("density at zero", [mixture.density_at_zero for mixture in mixtures], BALANCED),
    )
    for axes, (name, values, color) in zip(panels, series, strict=True):
        axes.plot(epochs, values, color=color, marker="o", markersize=4)
        axes.set_title(name, loc="left", fontsize=10)
        axes.grid(axis="y", color=GRAY, linewidth=0.5)
        axes.margins(x=0.06, y=0.15)
        axes.locator_params(axis="y", nbins=4)
    panels[1].axhline(0.0, color=DARK_GRAY, linewidth=0.8)
    panels[-1].set_ylim(bottom=0.0)
    panels[-1].set_xlabel("epochs finished")
    epoch_ticks(panels[-1], epochs)


def _first_of_each_label(panels: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Return legend handles and labels without duplicates; a component may be missing in some panels."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    labels = sorted(entries, key=lambda label: label == "sum")  # stable sort: the sum goes last
    return [entries[label] for label in labels], labels
