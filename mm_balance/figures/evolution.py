"""Evolution of the gap mixture over the refits (the paper's Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from mm_balance.figures.density import finite_gaps, gap_label, grid, histogram, roles
from mm_balance.figures.style import (
    BALANCED,
    BLACK,
    DARK_GRAY,
    DOTS_PER_INCH,
    GRAY,
    IMBALANCED,
    STYLE,
    add_caption,
    epoch_ticks,
)

if TYPE_CHECKING:
    from mm_balance.functional.mixture import Mixture

MOST_PANELS = 6
MOST_LINEAR = 6.0
"""Ratio of the highest to the lowest peak up to which all panels share a linear scale."""
LOWEST_DENSITY = 0.02
"""Lower end of a shared logarithmic scale."""


@matplotlib.rc_context(STYLE)
def mixture_evolution(
    refits: Sequence[tuple[int, np.ndarray, Mixture]],
    *,
    validation: Sequence[tuple[np.ndarray, Mixture] | None] = (),
    leading: str = "audio",
    other: str = "visual",
    caption: str = "",
) -> Figure:
    """Draw the density at each refit in stacked panels, and three statistics over all refits on the right.

    Args:
        refits: epoch, gaps ``(samples,)`` and mixture of each refit, in order of epochs, all of the same mixture kind.
            If there are more than six, six evenly spaced ones get panels, including the first and the last.
        validation: gaps and mixture of the validation samples at each refit, None where there are none, for a second column of
            panels; empty = no such column.
        leading: modality that is ahead if the gap is positive.
        other: modality it is compared with.
        caption: data set and seed.

    Raises:
        ValueError: ``refits`` is empty, or ``validation`` has another length.
    """
    if not refits:
        raise ValueError("nothing to draw: pass at least one refit")
    both = any(item is not None for item in validation)
    if both and len(validation) != len(refits):
        raise ValueError(f"{len(refits)} refits, but {len(validation)} of the validation samples")
    chosen = sorted({round(number) for number in np.linspace(0, len(refits) - 1, min(len(refits), MOST_PANELS))})
    figure = Figure(figsize=(13.6 if both else 9.6, max(1.4 + 1.25 * len(chosen), 4.6)), dpi=DOTS_PER_INCH)
    height = figure.get_figheight()
    top, bottom = 1 - (1.15 if both else 0.95) / height, 0.55 / height
    spans = ((0.055, 0.38), (0.415, 0.74)) if both else ((0.08, 0.6),)
    columns = [_column(figure, len(chosen), *span, top, bottom, 0.35) for span in spans]
    for place, number in enumerate(chosen):
        epoch, gaps, mixture = refits[number]
        _draw_refit(columns[0][place], epoch, gaps, mixture, leading, other)
        if both:
            _draw_validation(columns[1][place], epoch, validation[number], leading, other)
    scale = _share_scale([axes for panels in columns for axes in panels if axes.has_data()])
    figure.text(
        0.1 / figure.get_figwidth(), (top + bottom) / 2, f"density ({scale})", rotation=90, va="center", fontsize=10
    )
    # One label for both columns: two would run into each other.
    middle = (spans[0][0] + spans[-1][1]) / 2
    figure.text(middle, 0.08 / height, gap_label(leading, other), ha="center", va="bottom", fontsize=10)
    for panels, title in zip(columns, ("training samples", "validation samples") if both else (), strict=False):
        box = panels[0].get_position()
        figure.text(box.x0, top + 0.2 / height, title, va="bottom", fontsize=10)
    handles, labels = _first_of_each_label([axes for panels in columns for axes in panels])
    left = spans[0][0]
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(left - 0.008, 1 - 0.36 / height), ncols=5, frameon=False,
        borderaxespad=0.0, columnspacing=1.2,
    )  # fmt: skip
    statistics = _column(figure, 3, 0.79 if both else 0.7, 0.98, top, bottom, 0.45)
    _draw_statistics(statistics, refits, validation if both else ())
    if both:
        figure.legend(
            handles=statistics[0].get_lines(), loc="upper left", bbox_to_anchor=(0.782, 1 - 0.36 / height), ncols=2,
            frameon=False, borderaxespad=0.0,
        )  # fmt: skip
    add_caption(figure, caption)
    figure.suptitle(
        "Modality gap and its mixture over training (log-likelihood: mean per sample)",
        x=left,
        y=1 - 0.12 / height,
        ha="left",
        va="top",
    )
    return figure


def _column(
    figure: Figure, rows: int, left: float, right: float, top: float, bottom: float, space: float
) -> list[Axes]:
    """Add stacked panels that share the horizontal axis."""
    grid_of_panels = figure.add_gridspec(rows, 1, left=left, right=right, top=top, bottom=bottom, hspace=space)
    return list(grid_of_panels.subplots(sharex=True, squeeze=False)[:, 0])


def _draw_validation(
    axes: Axes, epoch: int, found: tuple[np.ndarray, Mixture] | None, leading: str, other: str
) -> None:
    if found is not None:
        _draw_refit(axes, epoch, *found, leading, other)
        return
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=DARK_GRAY)


def _draw_refit(axes: Axes, epoch: int, gaps: np.ndarray, mixture: Mixture, leading: str, other: str) -> None:
    points = grid(mixture)
    finite = finite_gaps(gaps)
    heights, edges = histogram(finite, mixture)
    axes.stairs(heights, edges, fill=True, color=GRAY, label="gaps")
    for curve, role in zip(mixture.component_densities(points), roles(mixture, leading, other), strict=True):
        axes.plot(points, curve, color=role.color, linestyle=role.line, linewidth=1.4, label=role.name)
    total = mixture.density(points)
    axes.plot(points, total, color=BLACK, linewidth=1.0, linestyle="--", label="sum")
    axes.axvline(0.0, color=DARK_GRAY, linewidth=0.6, zorder=0)
    axes.set_xlim(points[0], points[-1])
    above = axes.get_xaxis_transform()  # texts lie above the panel, not on its curves
    axes.text(-1.0, 1.04, f"epoch {epoch}", transform=above, ha="left", va="bottom", fontsize=9, fontweight="bold")
    numbers = ((-0.2, "center", f"density at zero {mixture.density_at_zero:.3g}"), (1.0, "right", _fit(mixture)))
    for place, side, text in numbers:
        axes.text(place, 1.04, text, transform=above, ha=side, va="bottom", fontsize=9, color=DARK_GRAY)


def _fit(mixture: Mixture) -> str:
    return "degenerate fit" if mixture.degenerate else f"log-likelihood {mixture.log_likelihood:+.2f}"


def _share_scale(panels: Sequence[Axes]) -> str:
    """Give all panels the same density scale, and return what it is: logarithmic if peaks differ too much for a linear one."""
    peaks = [_peak(axes) for axes in panels]
    highest = max(peaks)
    if highest <= MOST_LINEAR * min(peaks):
        for axes in panels:
            axes.set_ylim(0.0, 1.1 * highest)
            axes.locator_params(axis="y", nbins=3)
        return "same linear scale"
    for axes in panels:
        axes.set_yscale("log")
        axes.set_ylim(LOWEST_DENSITY, 2 * highest)
    return "same logarithmic scale"


def _peak(axes: Axes) -> float:
    """Return the highest density of a panel; a single bin far above the fit (many equal gaps) does not count."""
    total = max(float(np.max(line.get_ydata())) for line in axes.get_lines() if line.get_label() == "sum")
    heights = [
        float(np.max(patch.get_data()[0], initial=0.0)) for patch in axes.patches if isinstance(patch, StepPatch)
    ]
    return min(max([total, *heights]), 2 * total)


def _draw_statistics(
    panels: Sequence[Axes],
    refits: Sequence[tuple[int, np.ndarray, Mixture]],
    validation: Sequence[tuple[np.ndarray, Mixture] | None],
) -> None:
    """Draw three statistics of the mixtures, and those of the validation samples as dashed lines with hollow markers."""
    epochs = [epoch for epoch, _, _ in refits]
    training = [(epoch, mixture) for epoch, _, mixture in refits]
    measured = [(epoch, found[1]) for epoch, found in zip(epochs, validation, strict=False) if found is not None]
    statistics: tuple[tuple[str, Callable[[Mixture], float], str], ...] = (
        ("weight of imbalanced", lambda mixture: mixture.imbalanced.weight, IMBALANCED),
        ("mean of imbalanced", lambda mixture: mixture.imbalanced.mean, IMBALANCED),
        ("density at zero", lambda mixture: mixture.density_at_zero, BALANCED),
    )
    for axes, (name, statistic, color) in zip(panels, statistics, strict=True):
        _draw_series(axes, training, statistic, color=color, label="training")
        if measured:
            _draw_series(
                axes, measured, statistic, color=color, label="validation", linestyle="--", markerfacecolor="white"
            )
        axes.set_title(name, loc="left", fontsize=10)
        axes.grid(axis="y", color=GRAY, linewidth=0.5)
        axes.margins(x=0.06, y=0.15)
        axes.locator_params(axis="y", nbins=4)
    panels[1].axhline(0.0, color=DARK_GRAY, linewidth=0.8)
    panels[-1].set_ylim(bottom=0.0)
    panels[-1].set_xlabel("epochs finished")
    epoch_ticks(panels[-1], epochs)


def _draw_series(
    axes: Axes, fits: Sequence[tuple[int, Mixture]], statistic: Callable[[Mixture], float], **style: Any
) -> None:
    axes.plot(
        [epoch for epoch, _ in fits], [statistic(mixture) for _, mixture in fits], marker="o", markersize=4, **style
    )


def _first_of_each_label(panels: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Return legend handles and labels without duplicates; a component may be missing in some panels."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    labels = sorted(entries, key=lambda label: label == "sum")  # stable sort: the sum goes last
    return [entries[label] for label in labels], labels
