"""Colors, sizes and PNG export shared by all figures.

Figures are plain ``matplotlib.figure.Figure`` objects: no pyplot, no global state, no window.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe-Ito palette, distinguishable with all common color vision deficiencies.
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
    "axes.titley": 1.0,  # fixed position: automatic placement costs a quarter of the drawing time
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
    """Set one tick per epoch if there are few, integer ticks otherwise."""
    if len(epochs) <= 10:
        axes.set_xticks(epochs)
    else:
        axes.locator_params(axis="x", integer=True)


def save_png(figure: Figure, path: Path | None = None) -> bytes:
    """Render ``figure`` as PNG bytes, and write them to ``path`` if given."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters missing from the font are drawn as boxes; the names are also in the tables.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(buffer)
    data = buffer.getvalue()
    if path is not None:
        path.write_bytes(data)
    return data


def palette(name: str) -> bytes:
    """Return a color map as 256 RGB triples, for a picture with a palette."""
    return bytes((255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes())


def svg_text(figure: Figure) -> str:
    """Return a figure as an SVG element, to be part of an HTML page; equal figures give equal texts."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mm_balance", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
