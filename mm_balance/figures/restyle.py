"""Pictures that other libraries draw with pyplot, made ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mm_balance.figures.style import STYLE


def restyle(draw: Callable[[], Any], size: tuple[float, float] = (9.0, 5.5)) -> Figure:
    """The figure that ``draw`` makes with pyplot (it returns axes, or an array of them), taken out of pyplot's hands.

    Args:
        draw: what draws.
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
    settings = {**STYLE, **small, "figure.figsize": size, "figure.constrained_layout.use": True}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to set identical")  # one value of a parameter is no mistake
        made = draw()
        axes: Axes = made if isinstance(made, Axes) else np.asarray(made, dtype=object).ravel()[0]
        figure = axes.figure
        assert isinstance(figure, Figure)
        pyplot.close(figure)
        figure.set_size_inches(*size)
        for item in figure.axes:  # styles of the other library that our font sizes do not reach
            item.xaxis.label.set_fontsize(8)
            item.yaxis.label.set_fontsize(8)
            for axis in (item.xaxis, item.yaxis):
                if axis.get_scale() == "log":  # the labels between two powers of ten hide one another
                    axis.set_minor_formatter(NullFormatter())
    return figure
