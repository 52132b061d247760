"""Optuna's figures of a study, logged on its run."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as static

from mm_balance import names
from mm_balance.figures import render, restyle
from mm_balance.figures.style import MODALITIES
from mm_balance.study.handle import StudyHandle

ENOUGH_FOR_IMPORTANCE = 10
"""Complete trials from which on importances of parameters are drawn; from fewer, they are chance."""
CONTOUR_PARAMETERS = 3
"""Number of most important parameters in the contour plot, which has a panel for every pair; without importances, the first ones."""

TITLES = {
    "history": "Every trial, and the best so far",
    "slice": "The objective against each parameter; darker = later trial",
    "importance": "Share of each parameter in the differences between trials",
    "parallel_coordinate": "All parameters of each trial as one line",
    "contour": "The objective against pairs of parameters, interpolated between the trials (dots)",
    "pareto": "Both objectives of each trial",
}
"""Figure -> its heading on the page."""
HEIGHTS = {"contour": 850}
"""Figure -> height in pixels, where plotly's own is too small."""


def log_figures(handle: StudyHandle, trials: Sequence[FrozenTrial]) -> None:
    """Log all figures as one self-contained interactive page and as images, on the study's run."""
    width = 1.9 * len(handle.settings.dimensions) + 1.5
    sizes = {"slice": (width, 3.4), "parallel_coordinate": (max(9.0, 0.75 * width), 5.5), "contour": (11.0, 9.0)}
    figures = _figures(handle, trials)
    if not figures:
        return
    page = study_page(handle.name, {name: draw() for name, (draw, _) in figures.items()}, _complete(trials))
    handle.parent.log_bytes(page.encode(), names.STUDY_PAGE)
    for name, (_, draw_image) in figures.items():
        image = restyle(draw_image, sizes.get(name, (9.0, 5.5)))
        handle.parent.log_figure(render(image), f"{names.STUDY_FOLDER}/{name}.png")


def study_page(study: str, figures: Mapping[str, Any], complete: int) -> str:
    """Return one HTML page with all interactive figures; it loads nothing from elsewhere.

    Args:
        study: name of the study.
        figures: name, a key of ``TITLES`` -> plotly figure.
        complete: number of complete trials.
    """
    parts = []
    for number, (name, figure) in enumerate(figures.items()):
        figure.update_layout(
            template="plotly_white", font_family="DejaVu Sans, Arial, sans-serif", colorway=list(MODALITIES), title=None,
            margin_t=30, height=HEIGHTS.get(name, 450),
        )  # fmt: skip
        # The library is 4.6 MB: the first figure brings it for all.
        drawing = figure.to_html(include_plotlyjs=number == 0, full_html=False)
        parts.append(f'<h2 id="{name}">{TITLES[name]}</h2>\n<div class="figure">{drawing}</div>')
    if complete < ENOUGH_FOR_IMPORTANCE:
        parts.append(
            f"<p>Importances of parameters are shown from {ENOUGH_FOR_IMPORTANCE} complete trials on; so far: {complete}.</p>"
        )
    title = html.escape(f"Study {study}: {complete} complete trials")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        "<style>html { overflow-y: scroll; } body { font-family: DejaVu Sans, Arial, sans-serif; margin: 1.5rem; }"
        " h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin-top: 2rem; }"
        " .figure { overflow-x: auto; }</style></head>\n"
        f"<body><h1>{title}</h1>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _complete(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state == TrialState.COMPLETE for trial in trials)


def _figures(
    handle: StudyHandle, trials: Sequence[FrozenTrial]
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return name -> functions that draw it with plotly and with matplotlib; figures that need more trials are omitted."""
    study, interactive = handle.study, optuna.visualization
    complete = _complete(trials)
    if not complete:
        return {}
    several = len(handle.settings.objectives) > 1
    target: dict[str, Any] = {"target_name": handle.settings.objectives[0]} | ({"target": _first} if several else {})
    # Optuna's default evaluator needs the direction of the objective, unknown for a custom target; fANOVA uses all values.
    ranking: dict[str, Any] = {"evaluator": FanovaImportanceEvaluator(seed=0)} if several else {}
    searched = list(handle.settings.dimensions)
    figures: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}

    def add(name: str, function: str, **arguments: Any) -> None:
        figures[name] = (
            lambda: getattr(interactive, function)(study, **arguments),
            lambda: getattr(static, function)(study, **arguments),
        )

    add("history", "plot_optimization_history", **target)
    if not searched:
        return figures
    add("slice", "plot_slice", **target)
    if complete > 1:
        enough = complete >= ENOUGH_FOR_IMPORTANCE
        importance = _importance(study, {"target": _first, **ranking} if several else {}) if enough else {}
        if importance:
            add("importance", "plot_param_importances", **target, **ranking)
        ranked = [name for name in importance if name in searched] or searched
        if len(searched) > 1:
            add("parallel_coordinate", "plot_parallel_coordinate", **target)
            add("contour", "plot_contour", params=ranked[:CONTOUR_PARAMETERS], **target)
    if several:
        add("pareto", "plot_pareto_front", target_names=list(handle.settings.objectives))
    return figures


def _first(trial: FrozenTrial) -> float:
    return trial.values[0]


def _importance(study: optuna.Study, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Return Optuna's parameter importances, largest first; empty if all values or parameters are equal."""
    try:
        return optuna.importance.get_param_importances(study, **arguments)
    except (RuntimeError, ValueError):
        return {}
