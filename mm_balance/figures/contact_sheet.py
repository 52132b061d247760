"""Contact sheet of a data set: frames next to spectrograms."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_balance.figures.style import DARK_GRAY, DOTS_PER_INCH, STYLE

COLUMNS = 3
MOST_FRAMES = 3
CELL = (4.2, 1.7)
"""Width and height of one sample, inches."""
FOOT = 0.2
"""Height of a line at the foot, inches."""
CHARACTERS = 14
"""Characters of the foot on an inch, at most."""
NAME_LENGTH = 44


@dataclass(frozen=True)
class SheetSample:
    """One sample to draw.

    Attributes:
        name: sample id.
        label: class name.
        pictures: modality -> ``(frames, channels, height, width)`` uint8.
        spectrograms: modality -> ``(bins, frames)`` float; of a vector or sequence its values, ``(features, steps)``.
    """

    name: str
    label: str
    pictures: dict[str, np.ndarray]
    spectrograms: dict[str, np.ndarray]


@matplotlib.rc_context(STYLE)
def contact_sheet(samples: Sequence[SheetSample], *, title: str, note: str = "") -> Figure:
    """Draw a grid of about a dozen samples or fewer, each with its first frames and its spectrograms.

    Args:
        samples: what to draw.
        title: heading.
        note: what a reader must know, at the foot; empty = nothing.

    Raises:
        ValueError: ``samples`` is empty.
    """
    if not samples:
        raise ValueError("nothing to draw: pass at least one sample")
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    width = columns * CELL[0]
    lines = textwrap.wrap(note, int(width * CHARACTERS))
    foot = len(lines) * FOOT
    figure = Figure(figsize=(width, rows * CELL[1] + 0.5 + foot), dpi=DOTS_PER_INCH)
    height = figure.get_figheight()
    figure.text(0.08 / figure.get_figwidth(), 1 - 0.3 / height, title, fontsize=12, va="center")
    if lines:
        figure.text(0.08 / width, 0.5 * foot / height, "\n".join(lines), fontsize=8, color=DARK_GRAY, va="center")
    for number, sample in enumerate(samples):
        row, column = divmod(number, columns)
        top = height - 0.5 - row * CELL[1]
        _draw(figure, sample, column * CELL[0], top)
    return figure


def _draw(figure: Figure, sample: SheetSample, left: float, top: float) -> None:
    """Draw one cell; ``left`` and ``top`` are in inches from the left and bottom edges of the figure."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.text((left + 0.08) / width, (top - 0.12) / height, _short(sample.label), fontweight="bold", va="center")
    figure.text(
        (left + 0.08) / width, (top - 0.3) / height, _short(sample.name), fontsize=8, color=DARK_GRAY, va="center"
    )
    edge, gap = CELL[1] - 0.5, 0.06
    frames = [picture for pictures in sample.pictures.values() for picture in pictures[:MOST_FRAMES]]
    available = CELL[0] - 0.16
    # Frames take at most two thirds of the cell, so that the spectrogram stays visible.
    frame_edge = min(edge, (2 / 3 * available) / max(len(frames), 1) - gap)
    x = left + 0.08
    for picture in frames:
        axes = _axes(figure, x, top - 0.42 - frame_edge, frame_edge, frame_edge)
        axes.imshow(_rgb(picture), interpolation="nearest", aspect="auto")
        x += frame_edge + gap
    width_each = (left + CELL[0] - 0.08 - x) / max(len(sample.spectrograms), 1)
    for values in sample.spectrograms.values():
        axes = _axes(figure, x, top - 0.42 - edge, width_each - gap, edge)
        axes.imshow(values, origin="lower", aspect="auto", cmap="cividis", interpolation="nearest")
        x += width_each


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    total_width, total_height = figure.get_figwidth(), figure.get_figheight()
    axes: Axes = figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height)
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _rgb(picture: np.ndarray) -> np.ndarray:
    """Convert ``(channels, height, width)`` to ``(height, width, 3)`` for matplotlib; a single channel becomes gray."""
    return np.repeat(picture, 3, axis=0).transpose(1, 2, 0) if len(picture) == 1 else picture.transpose(1, 2, 0)


def _short(text: str) -> str:
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"
