"""Accuracy of each modality alone over training (the paper's Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_balance.figures.style import BLACK, DARK_GRAY, DOTS_PER_INCH, GRAY, MODALITIES, STYLE, add_caption, epoch_ticks


@matplotlib.rc_context(STYLE)
def unimodal_accuracy(
    epochs: Sequence[int],
    accuracies: Mapping[str, Sequence[float]],
    fused: Sequence[float] | None = None,
    warmup_epochs: int | None = None,
    *,
    branches: bool = False,
    split: str = "validation",
    caption: str = "",
) -> Figure:
    """Plot accuracy per modality over epochs and, below, the difference between modalities.

    Args:
        epochs: ``(points,)`` epochs finished, increasing.
        accuracies: modality -> ``(points,)`` accuracy of that modality alone, 0-1 (NaN = not measured).
        fused: ``(points,)`` accuracy of all modalities together, 0-1.
        warmup_epochs: length of the warm-up; a line marks the change of stage if the epochs span it.
        branches: whether these are branches with access to other modalities rather than single modalities; changes the legend.
        split: split that the accuracies were measured on.
        caption: data set and seed.

    Returns:
        A figure with two panels: accuracies, and best minus worst modality, both in percent (points).

    Raises:
        ValueError: no epoch, no modality, or a series whose length differs from that of ``epochs``.
    """
    if not len(epochs) or not accuracies:
        raise ValueError("nothing to draw: pass at least one epoch and one modality")
    series = {**accuracies, **({} if fused is None else {"fused": fused})}
    for name, values in series.items():
        if len(values) != len(epochs):
            raise ValueError(f"{name!r} has {len(values)} values for {len(epochs)} epochs")
    figure = Figure(figsize=(7.2, 5.2), dpi=DOTS_PER_INCH)
    upper, lower = figure.subplots(
        2, 1, sharex=True,
        gridspec_kw={"height_ratios": [3, 1], "hspace": 0.12, "left": 0.1, "right": 0.97, "top": 0.85, "bottom": 0.1},
    )  # fmt: skip
    for number, (name, values) in enumerate(accuracies.items()):
        color = MODALITIES[number % len(MODALITIES)]
        upper.plot(
            epochs,
            100 * np.asarray(values),
            color=color,
            marker=_marker(epochs),
            markersize=3.5,
            label=f"{name} branch" if branches else f"{name} alone",
        )
    if fused is not None:
        upper.plot(epochs, 100 * np.asarray(fused), color=BLACK, linestyle="--", label="fused")
    difference = _draw_difference(lower, epochs, accuracies)
    upper.set_ylabel(f"{split} accuracy (%)")
    upper.grid(axis="y", color=GRAY, linewidth=0.5)
    lower.set_xlabel("epochs finished")
    lower.margins(x=0.02)
    epoch_ticks(lower, epochs)
    if warmup_epochs is not None and epochs[0] <= warmup_epochs < epochs[-1]:
        _mark_stages(upper, lower, warmup_epochs)
    title = _title(epochs, difference, warmup_epochs, "Branches" if branches else "Modalities")
    figure.suptitle(title, x=0.1, y=0.98, ha="left", fontsize=11)
    figure.legend(
        *upper.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.09, 0.945), ncols=5, frameon=False
    )
    add_caption(figure, caption, top=5.05)  # at the bottom: the title may need the whole width
    return figure


def _draw_difference(axes: Axes, epochs: Sequence[int], accuracies: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Draw and return best minus worst modality in percentage points, ``(points,)``."""
    table = 100 * np.array([np.asarray(values, dtype=float) for values in accuracies.values()])
    difference = table.max(axis=0) - table.min(axis=0)
    axes.fill_between(epochs, difference, color=GRAY, linewidth=0)
    axes.plot(epochs, difference, color=DARK_GRAY, linewidth=1.4, marker=_marker(epochs), markersize=3)
    axes.set_ylabel("difference\n(points)")
    axes.set_ylim(0, 1.15 * max(np.nan_to_num(difference).max(), 1.0))
    return difference


def _mark_stages(upper: Axes, lower: Axes, warmup_epochs: int) -> None:
    for axes in (upper, lower):
        axes.axvline(warmup_epochs, color=BLACK, linewidth=1.0, linestyle=":")
    for text, side in (
        ("warm-up ", "right"),
        (" adaptive", "left"),
    ):  # above the axes, where it does not overlap the curves
        upper.text(
            warmup_epochs, 1.0, text, transform=upper.get_xaxis_transform(), ha=side, va="bottom",
            fontsize=9, color=DARK_GRAY,
        )  # fmt: skip


def _marker(epochs: Sequence[int]) -> str:
    return "o" if len(epochs) <= 40 else ""


def _title(epochs: Sequence[int], difference: np.ndarray, warmup_epochs: int | None, what: str) -> str:
    """State the differences between modalities, or branches, in a title."""
    parts = []
    if warmup_epochs is not None and warmup_epochs in epochs and warmup_epochs != epochs[-1]:
        parts.append(f"{difference[list(epochs).index(warmup_epochs)]:.1f} points after the warm-up")
    parts.append(f"{difference[-1]:.1f} points after epoch {epochs[-1]}")
    return f"{what} differ by " + ", ".join(parts)
