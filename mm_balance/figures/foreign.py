"""Pictures that other libraries draw with pyplot, made ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mm_balance.figures.style import STYLE


def draw_foreign(draw: Callable[[], Any], size: tuple[float, float] = (9.0, 5.5)) -> Figure:
    """The figure that ``draw`` makes with pyplot (it returns axes, or an array of them), taken out of pyplot's hands.

    Args:
        draw: what draws.
        size: width and height, inches.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        made = draw()
        axes: Axes = made if isinstance(made, Axes) else np.asarray(made, dtype=object).ravel()[0]
        figure = axes.figure
        assert isinstance(figure, Figure)
        pyplot.close(figure)
        figure.set_size_inches(*size)
        figure.set_layout_engine("tight")
    return figure
