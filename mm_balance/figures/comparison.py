"""Figures over several runs: differences to a baseline with their intervals, and accuracies over epochs as means over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_balance.figures.style import BLACK, DARK_GRAY, DOTS_PER_INCH, GRAY, MODALITIES, STYLE, add_caption, epoch_ticks

LONGEST = 90
"""Characters of a row's label; longer ones are cut in the middle."""
ROW_HEIGHT = 0.27


class Interval(NamedTuple):
    """A mean difference with its interval; one that is not finite is drawn as a point alone."""

    mean: float
    low: float
    high: float


@matplotlib.rc_context(STYLE)
def difference_intervals(
    labels: Sequence[str],
    differences: Mapping[str, Sequence[Interval | None]],
    *,
    title: str,
    unit: str = "points",
    caption: str = "",
) -> Figure:
    """Draw one row per label and one panel per measure: mean difference to the baseline and its interval.

    Args:
        labels: names of the rows, from top to bottom.
        differences: measure -> one interval per row, None = not compared. All panels share one scale.
        title: title of the figure.
        unit: unit of the differences.
        caption: data set and seeds.

    Raises:
        ValueError: no label, no measure, or a measure with another number of rows.
    """
    if not labels or not differences:
        raise ValueError("nothing to draw: pass at least one row and one measure")
    if wrong := [name for name, items in differences.items() if len(items) != len(labels)]:
        raise ValueError(f"{wrong[0]!r} has {len(differences[wrong[0]])} intervals for {len(labels)} rows")
    shown = [_shortened(label) for label in labels]
    side = 0.35 + 0.064 * max(map(len, shown))
    width, height = side + 2.6 * len(differences) + 0.2, ROW_HEIGHT * max(len(labels), 3) + 1.25
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    panels = figure.subplots(
        1, len(differences), sharex=True, sharey=True, squeeze=False,
        gridspec_kw={"left": side / width, "right": 1 - 0.15 / width, "top": 1 - 0.7 / height, "bottom": 0.5 / height,
                     "wspace": 0.12},
    )[0]  # fmt: skip
    places = np.arange(len(labels))
    for axes, (measure, items) in zip(panels, differences.items(), strict=True):
        axes.axvline(0.0, color=DARK_GRAY, linewidth=0.9)
        for place, item in zip(places, items, strict=True):
            if item is not None:
                _draw_interval(axes, float(place), item)
        axes.set_title(measure, loc="left", fontsize=10)
        axes.grid(axis="x", color=GRAY, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"difference ({unit})")
    panels[0].set_yticks(places, shown, fontsize=8)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.suptitle(title, x=0.12 / width, y=1 - 0.1 / height, ha="left", va="top")
    add_caption(figure, caption, x=0.12, top=0.36)
    return figure


def _draw_interval(axes: Axes, place: float, item: Interval) -> None:
    bounded = math.isfinite(item.low) and math.isfinite(item.high)
    apart = bounded and (item.low > 0 or item.high < 0)
    color = MODALITIES[0] if apart else DARK_GRAY
    if bounded:
        axes.plot([item.low, item.high], [place, place], color=color, linewidth=2.2)
    axes.plot([item.mean], [place], marker="o", markersize=6, color=color, markerfacecolor=color if apart else "white")


def _shortened(label: str) -> str:
    if len(label) <= LONGEST:
        return label
    half = (LONGEST - 3) // 2
    return f"{label[:half]}...{label[-half:]}"


@matplotlib.rc_context(STYLE)
def accuracies_over_seeds(
    epochs: Sequence[int],
    accuracies: Mapping[str, np.ndarray],
    fused: np.ndarray,
    warmup_epochs: int | None,
    *,
    title: str,
    caption: str = "",
) -> Figure:
    """Plot the validation accuracy of each modality alone and fused: mean over seeds, and one standard deviation around it.

    Args:
        epochs: ``(points,)`` epochs finished, increasing.
        accuracies: modality -> ``(seeds, points)``, 0-1.
        fused: ``(seeds, points)``, 0-1.
        warmup_epochs: length of the warm-up; a line marks the change of stage if the epochs span it.
        title: title of the figure.
        caption: data set and seeds.

    Raises:
        ValueError: no epoch, or a series with another number of points.
    """
    series = {**{f"{name} alone": values for name, values in accuracies.items()}, "fused": fused}
    if not len(epochs) or any(np.shape(values)[1:] != (len(epochs),) for values in series.values()):
        raise ValueError(f"need series of {len(epochs)} points, at least one")
    figure = Figure(figsize=(7.2, 4.7), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.1, 0.165, 0.87, 0.665))
    for number, (name, values) in enumerate(series.items()):
        last = name == "fused"
        color = BLACK if last else MODALITIES[number % len(MODALITIES)]
        mean, deviation = 100 * values.mean(axis=0), 100 * values.std(axis=0, ddof=min(1, len(values) - 1))
        axes.plot(epochs, mean, color=color, linestyle="--" if last else "-", label=name, marker="o", markersize=3)
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.16, linewidth=0)
    if warmup_epochs is not None and epochs[0] <= warmup_epochs < epochs[-1]:
        axes.axvline(warmup_epochs, color=BLACK, linewidth=1.0, linestyle=":")
        for text, side in (("warm-up ", "right"), (" second stage", "left")):
            axes.text(
                warmup_epochs, 1.0, text, transform=axes.get_xaxis_transform(), ha=side, va="bottom", fontsize=9,
                color=DARK_GRAY,
            )  # fmt: skip
    axes.set_ylabel("validation accuracy (%)")
    axes.set_xlabel("epochs finished")
    axes.grid(axis="y", color=GRAY, linewidth=0.5)
    axes.margins(x=0.02)
    epoch_ticks(axes, epochs)
    figure.suptitle(title, x=0.1, y=0.985, ha="left", fontsize=11)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.09, 0.935), ncols=5, frameon=False
    )
    add_caption(figure, caption, top=4.5)
    return figure
