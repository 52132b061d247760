"""Optuna's figures of a study, logged on its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as static

from mm_balance import names
from mm_balance.figures import restyle, save_png
from mm_balance.study.handle import StudyHandle

CONTOUR_PARAMETERS = 3
"""Number of most important parameters in the contour plot, which has a panel for every pair."""


def log_figures(handle: StudyHandle, trials: Sequence[FrozenTrial]) -> None:
    """Log each figure as a self-contained interactive page and as an image, on the study's run."""
    width = 1.9 * len(handle.settings.dimensions) + 1.5
    sizes = {"slice": (width, 3.4), "parallel_coordinate": (max(9.0, 0.75 * width), 5.5), "contour": (11.0, 9.0)}
    for name, (draw_page, draw_image) in _figures(handle, trials).items():
        page = draw_page().to_html(include_plotlyjs=True, full_html=True)
        handle.parent.log_bytes(page.encode(), f"{names.STUDY_FOLDER}/{name}.html")
        handle.parent.log_bytes(
            save_png(restyle(draw_image, sizes.get(name, (9.0, 5.5)))), f"{names.STUDY_FOLDER}/{name}.png"
        )


def _figures(
    handle: StudyHandle, trials: Sequence[FrozenTrial]
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return name -> functions that draw it with plotly and with matplotlib; figures that need more trials are omitted."""
    study, interactive = handle.study, optuna.visualization
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
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
    if len(complete) > 1:
        importance = _importance(study, {"target": _first, **ranking} if several else {})
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
