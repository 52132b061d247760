"""Figures of an evaluation: confusion matrices, reliability diagram, gap per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_balance.figures.density import gap_label
from mm_balance.figures.style import (
    BLACK,
    BLUE,
    DARK_GRAY,
    DOTS_PER_INCH,
    GRAY,
    MODALITIES,
    STYLE,
    VERMILION,
    add_caption,
)

MOST_NUMBERS = 12
"""Classes up to which the cells of a confusion matrix have numbers."""
MOST_NAMES = 40
"""Classes up to which their names are written at the axes."""
PANELS_PER_ROW = 3
LONGEST_NAME = 18
MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of predictions in bins of equal width.

    Attributes:
        confidence: ``(bins,)`` mean largest probability in each bin, NaN where it is empty.
        accuracy: ``(bins,)`` fraction of correct predictions in each bin, likewise.
        counts: ``(bins,)`` predictions in each bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1: mean absolute difference of confidence and accuracy, weighted by counts."""
        return float(np.nansum(self.counts * np.abs(self.confidence - self.accuracy)) / self.counts.sum())


@matplotlib.rc_context(STYLE)
def confusion_matrices(
    counts: Mapping[str, np.ndarray], classes: Sequence[str], *, title: str, caption: str = ""
) -> Figure:
    """Draw one matrix per prediction; colors are shares of the true class, numbers are samples.

    Args:
        counts: name of the prediction -> ``(classes, classes)`` samples by true class (rows) and predicted class.
        classes: names of the classes.
        title: title of the figure.
        caption: split, data set and seed.

    Raises:
        ValueError: no matrix, or one whose shape is not that of ``classes``.
    """
    size = len(classes)
    if not counts or any(matrix.shape != (size, size) for matrix in counts.values()):
        raise ValueError(f"need at least one matrix of shape ({size}, {size})")
    columns = min(PANELS_PER_ROW, len(counts))
    rows = -(-len(counts) // columns)
    edge = min(max(2.6, 0.26 * size), 6.0)
    figure = Figure(figsize=(columns * (edge + 1.0) + 0.7, rows * (edge + 1.2) + 0.6), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, (name, matrix) in zip(panels, counts.items(), strict=False):
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        accuracy = np.trace(matrix) / max(matrix.sum(), 1)
        axes.set_title(f"{name}: {100 * accuracy:.1f} % correct", loc="left", fontsize=10)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        _name_classes(axes, classes)
        if size <= MOST_NUMBERS:
            for (row, column), value in np.ndenumerate(matrix):
                if value:
                    color = "white" if shares[row, column] > 0.55 else BLACK
                    axes.text(column, row, f"{value:d}", ha="center", va="center", fontsize=7, color=color)
    for axes in panels[len(counts) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=panels, shrink=0.7, aspect=30, label="share of the true class")
    bar.outline.set_visible(False)  # type: ignore[operator]
    _head(figure, title, caption)
    return figure


@matplotlib.rc_context(STYLE)
def reliability_diagram(found: Mapping[str, Reliability], *, caption: str = "") -> Figure:
    """Draw accuracy against confidence, and below it how many predictions have that confidence.

    Args:
        found: name of the prediction -> its bins; the first one is drawn in black.
        caption: split, data set and seed.

    Raises:
        ValueError: nothing to draw.
    """
    if not found:
        raise ValueError("nothing to draw: pass at least one prediction")
    figure = Figure(figsize=(6.4, 6.2), dpi=DOTS_PER_INCH)
    upper, lower = figure.subplots(
        2, 1, sharex=True,
        gridspec_kw={"height_ratios": [3, 1], "hspace": 0.1, "left": 0.12, "right": 0.97, "top": 0.8, "bottom": 0.1},
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], color=GRAY, linewidth=1.2, zorder=0, label="calibrated")
    for number, (name, item) in enumerate(found.items()):
        color = BLACK if number == 0 else MODALITIES[(number - 1) % len(MODALITIES)]
        style = "--" if number == 0 else "-"
        kept = item.counts > 0
        marker = MARKERS[number % len(MARKERS)]
        upper.plot(
            item.confidence[kept], item.accuracy[kept], color=color, linestyle=style, marker=marker, markersize=4,
            label=f"{name}: {100 * item.error:.1f} %",
        )  # fmt: skip
        edges = np.linspace(0.0, 1.0, len(item.counts) + 1)
        lower.stairs(item.counts / item.counts.sum(), edges, color=color, linestyle=style, linewidth=1.2)
    upper.set_ylabel("accuracy")
    upper.set_xlim(0.0, 1.0)
    upper.set_ylim(0.0, 1.0)
    upper.set_aspect("auto")
    lower.set_xlabel("confidence (largest probability)")
    lower.set_ylabel("share")
    lower.set_ylim(bottom=0.0)
    first = next(iter(found))
    figure.legend(
        *upper.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.11, 0.91), ncols=2, frameon=False,
        borderaxespad=0.0,
    )  # fmt: skip
    _head(figure, f"Expected calibration error of the {first} prediction: {100 * found[first].error:.1f} %", caption)
    return figure


@matplotlib.rc_context(STYLE)
def gap_per_class(
    means: np.ndarray, half_widths: np.ndarray, classes: Sequence[str], *, leading: str, other: str, caption: str = ""
) -> Figure:
    """Draw the mean gap of each class with its 95 % interval, ordered by the gap.

    Args:
        means: ``(classes,)`` mean gap of the samples of a class, NaN where there are none.
        half_widths: ``(classes,)`` half-width of its interval, NaN where it is not known.
        classes: names of the classes.
        leading: modality that is ahead if the gap is positive.
        other: modality it is compared with.
        caption: split, data set and seed.

    Raises:
        ValueError: arrays of other lengths than ``classes``, or no class with samples.
    """
    if not len(means) == len(half_widths) == len(classes) or not np.isfinite(means).any():
        raise ValueError(f"need means and half-widths of {len(classes)} classes, at least one of them finite")
    order = [index for index in np.argsort(means) if np.isfinite(means[index])]
    figure = Figure(figsize=(7.2, 1.5 + 0.24 * len(order)), dpi=DOTS_PER_INCH)
    height = figure.get_figheight()
    axes = figure.add_axes((0.22, 0.62 / height, 0.75, 1 - 1.32 / height))
    places = np.arange(len(order))
    values, widths = means[order], half_widths[order]
    axes.barh(places, values, color=[BLUE if value > 0 else VERMILION for value in values], height=0.7)
    known = np.isfinite(widths)
    axes.errorbar(values[known], places[known], xerr=widths[known], fmt="none", ecolor=BLACK, elinewidth=0.9, capsize=2)
    axes.axvline(0.0, color=DARK_GRAY, linewidth=0.8)
    axes.set_yticks(places, [_short(classes[index]) for index in order])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(gap_label(leading, other))
    lowest, highest = order[0], order[-1]
    _head(
        figure,
        f"Mean gap per class: from {means[lowest]:+.2f} ({_short(classes[lowest])}) "
        f"to {means[highest]:+.2f} ({_short(classes[highest])})",
        f"{caption}; bars: 95 % intervals" if caption else "bars: 95 % intervals",
    )
    return figure


def _head(figure: Figure, title: str, caption: str) -> None:
    """Write title and caption in two lines at the top left."""
    height = figure.get_figheight()
    figure.suptitle(title, x=0.12 / figure.get_figwidth(), y=1 - 0.1 / height, ha="left", va="top", fontsize=11)
    add_caption(figure, caption, x=0.12, top=0.34)


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    if len(classes) > MOST_NAMES:
        return
    names = [_short(name) for name in classes]
    upright = max(len(name) for name in names) > 2
    axes.set_xticks(range(len(classes)), names, rotation=90 if upright else 0, fontsize=7)
    axes.set_yticks(range(len(classes)), names, fontsize=7)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
