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
from matplotlib.text import Text

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


def add_caption(figure: Figure, text: str, *, x: float | None = None, top: float = 0.1) -> None:
    """Write what the figure shows (split, data set, seed) small at its top, in the style of ``STYLE``.

    Args:
        figure: the figure.
        text: the caption; empty = none.
        x: distance from the left edge, inches; None = right-aligned at the right edge.
        top: distance from the top edge, inches.
    """
    width, height = figure.get_figwidth(), figure.get_figheight()
    place, side = (1 - 0.12 / width, "right") if x is None else (x / width, "left")
    figure.text(place, 1 - top / height, text, ha=side, va="top", fontsize=8, color=DARK_GRAY)


def _as_written(figure: Figure) -> None:
    """Let texts be drawn as they are: matplotlib would read what stands between two dollars as mathematics, or fail at it.

    The labels of logarithmic axes, which matplotlib writes as powers of ten, are the only mathematics of our figures.
    """
    powers = {
        id(text)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() == "log"
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for text in tick.findobj(Text)
    }
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if id(text) not in powers:
            text.set_parse_math(False)


def render(figure: Figure) -> dict[str, bytes]:
    """Render ``figure`` for screens and for papers: suffix (``.png``, ``.pdf``) -> file content.

    The PDF carries no date, so that equal figures give equal files, and its text stays text.
    """
    files = {".png": save_png(figure)}
    figure.set_layout_engine("none")  # the layout is done; solving it again would cost as much as drawing
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return {**files, ".pdf": buffer.getvalue()}


def save_png(figure: Figure, path: Path | None = None) -> bytes:
    """Render ``figure`` as PNG bytes, and write them to ``path`` if given."""
    _as_written(figure)
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
    _as_written(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mm_balance", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    # SVG collapses spaces, also those that hold labels apart.
    return text[text.index("<svg") :].replace("<text ", '<text xml:space="preserve" ')
