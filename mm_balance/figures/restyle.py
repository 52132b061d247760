"""Restyle matplotlib figures drawn by other libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import NullFormatter

from mm_balance.figures.style import MODALITIES, STYLE


@contextmanager
def _instead_of_every_style(settings: dict[Any, Any]) -> Iterator[None]:
    """Let libraries that choose one of matplotlib's named styles get ``settings`` (Optuna chooses ggplot in every function)."""
    from matplotlib import style

    named = dict(style.library)
    style.library.update(dict.fromkeys(named, matplotlib.RcParams(settings)))
    try:
        yield
    finally:
        style.library.update(named)


def restyle(draw: Callable[[], Any], size: tuple[float, float] = (9.0, 5.5)) -> Figure:
    """Run ``draw`` with this package's style and detach its figure from pyplot.

    Args:
        draw: function that draws with pyplot and returns axes, or an array of them.
        size: width and height, inches.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    small: dict[Any, Any] = {
        "axes.labelsize": 8.0,
        "xtick.labelsize": 7.0,
        "ytick.labelsize": 7.0,
        "figure.labelsize": 8.0,
    }
    colors = {"axes.prop_cycle": cycler(color=MODALITIES)}
    settings = {**STYLE, **small, **colors, "figure.figsize": size, "figure.constrained_layout.use": True}
    with matplotlib.rc_context(settings), _instead_of_every_style(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to set identical")  # a parameter may have a single value
        drawn = draw()
        axes: Axes = drawn if isinstance(drawn, Axes) else np.asarray(drawn, dtype=object).ravel()[0]
        figure = axes.figure
        assert isinstance(figure, Figure)
        pyplot.close(figure)
        figure.set_size_inches(*size)
        for item in figure.axes:  # sizes set by the other library override rc parameters
            item.xaxis.label.set_fontsize(8)
            item.yaxis.label.set_fontsize(8)
            for axis in (item.xaxis, item.yaxis):
                if axis.get_scale() == "log":  # minor labels between powers of ten would overlap
                    axis.set_minor_formatter(NullFormatter())
    return figure
