"""How samples move between the components of the mixture, from refit to refit."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from mm_balance.figures.style import BALANCED, DARK_GRAY, DOTS_PER_INCH, IMBALANCED, STYLE

NAMES = ("balanced", "imbalanced")
COLORS = (BALANCED, IMBALANCED)
BLOCK = 0.12
"""Width of a block, in units of the distance between refits."""
GAP = 0.04
"""Space between the two blocks, as a share of all samples."""


@matplotlib.rc_context(STYLE)
def component_flow(epochs: Sequence[int], steps: Sequence[np.ndarray], *, title: str) -> Figure:
    """Draw one column per refit, two blocks each, and bands between columns as wide as the number of samples that moved.

    Args:
        epochs: epochs of the refits.
        steps: per pair of neighboring refits, counts ``(2, 2)``: from (balanced, imbalanced) in rows to (balanced, imbalanced).
        title: title of the figure.

    Raises:
        ValueError: ``steps`` are not one fewer than ``epochs``, or there are none.
    """
    if not steps or len(steps) != len(epochs) - 1:
        raise ValueError(
            f"{len(epochs)} refits have {max(len(epochs) - 1, 0)} steps between them, at least one; got {len(steps)}"
        )
    total = int(steps[0].sum())
    sizes = [steps[0].sum(axis=1), *(step.sum(axis=0) for step in steps)]
    figure = Figure(figsize=(1.6 + 1.3 * len(epochs), 3.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    for place, size in enumerate(sizes):
        for component, bottom in enumerate(_bottoms(size, total)):
            axes.add_patch(
                Rectangle((place - BLOCK / 2, bottom), BLOCK, size[component] / total, color=COLORS[component])
            )
            if size[component]:
                axes.annotate(
                    f"{size[component]:,}",
                    (place + BLOCK / 2 + 0.02, bottom + size[component] / total / 2),
                    fontsize=8,
                    va="center",
                )
    for place, step in enumerate(steps):
        leaves, arrives = _bottoms(sizes[place], total), _bottoms(sizes[place + 1], total)
        for start in range(2):
            for end in range(2):
                share = step[start, end] / total
                _band(axes, place, leaves[start], arrives[end], share, COLORS[start])
                leaves[start] += share
                arrives[end] += share
    axes.set_xticks(range(len(epochs)), [f"epoch {epoch}" for epoch in epochs])
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(epochs) - 0.4)
    axes.set_ylim(-0.02, 1 + GAP + 0.02)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left", fontsize=10)
    for component, name in enumerate(NAMES):
        axes.plot([], [], color=COLORS[component], linewidth=6, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, frameon=False, labelcolor=DARK_GRAY)
    return figure


def _bottoms(size: np.ndarray, total: int) -> list[float]:
    """Return the lower edges of the two blocks."""
    return [0.0, size[0] / total + GAP]


def _band(axes: Axes, place: int, left: float, right: float, share: float, color: str) -> None:
    if share == 0:
        return
    start, end = place + BLOCK / 2, place + 1 - BLOCK / 2
    middle = (start + end) / 2
    corners = [
        (start, left), (middle, left), (middle, right), (end, right),
        (end, right + share), (middle, right + share), (middle, left + share), (start, left + share), (start, left),
    ]  # fmt: skip
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    axes.add_patch(PathPatch(Path(corners, codes), facecolor=color, alpha=0.3, linewidth=0))
