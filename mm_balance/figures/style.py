"""Colors, sizes and the way to PNG of every figure.

Figures are plain ``matplotlib.figure.Figure`` objects: no pyplot, no global state, no window.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe-Ito, told apart with every common color blindness.
BLACK = "#000000"
GRAY = "#c9c9c9"
DARK_GRAY = "#595959"
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
ORANGE = "#e69f00"
PURPLE = "#8f4a78"

BALANCED = BLUE
IMBALANCED = VERMILION
MODALITIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)
"""Line colors of modalities in their order; they repeat after the fifth."""

DOTS_PER_INCH = 100

STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 12.0,
    "axes.titley": 1.0,  # a fixed place: looking for one costs a quarter of the drawing
    "axes.labelsize": 10.0,
    "legend.fontsize": 9.0,
    "legend.title_fontsize": 9.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.grid": False,
    "figure.facecolor": "white",
}
"""matplotlib parameters; every drawing function runs inside ``matplotlib.rc_context(STYLE)``."""


def epoch_ticks(axes: Axes, epochs: Sequence[int]) -> None:
    """A tick at each of a few epochs, whole numbers where there are many."""
    if len(epochs) <= 10:
        axes.set_xticks(epochs)
    else:
        axes.locator_params(axis="x", integer=True)


def save_png(figure: Figure, path: Path | None = None) -> bytes:
    """``figure`` as the bytes of a PNG, also written to ``path`` where one is given."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; it is in the tables as well.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer)
    data = buffer.getvalue()
    if path is not None:
        path.write_bytes(data)
    return data
