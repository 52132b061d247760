"""Optuna's figures of a study, on its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as pictures

from mm_balance import names
from mm_balance.figures import restyle, save_png
from mm_balance.study.handle import StudyHandle

CONTOUR_PARAMETERS = 3
"""Of the most important ones: every pair is a picture."""


def log_pictures(handle: StudyHandle, trials: Sequence[FrozenTrial]) -> None:
    """Each as an interactive page that needs nothing else, and as a picture, on the study's run."""
    wide = 1.9 * len(handle.settings.dimensions) + 1.5
    sizes = {"slice": (wide, 3.4), "parallel_coordinate": (max(9.0, 0.75 * wide), 5.5), "contour": (11.0, 9.0)}
    for name, (interactive, picture) in _figures(handle, trials).items():
        page = interactive().to_html(include_plotlyjs=True, full_html=True)
        handle.parent.log_bytes(page.encode(), f"{names.STUDY_FOLDER}/{name}.html")
        handle.parent.log_bytes(
            save_png(restyle(picture, sizes.get(name, (9.0, 5.5)))), f"{names.STUDY_FOLDER}/{name}.png"
        )


def _figures(
    handle: StudyHandle, trials: Sequence[FrozenTrial]
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name -> what draws it with plotly, and with matplotlib. Those that need more trials than there are are left out."""
    study, interactive = handle.study, optuna.visualization
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return {}
    several = len(handle.settings.objectives) > 1
    said: dict[str, Any] = {"target_name": handle.settings.objectives[0]} | ({"target": _first} if several else {})
    # Optuna's default looks at one direction only, which it cannot know of a target: fANOVA looks at all values.
    ranking: dict[str, Any] = {"evaluator": FanovaImportanceEvaluator(seed=0)} if several else {}
    searched = list(handle.settings.dimensions)
    drawn: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}

    def add(name: str, function: str, **arguments: Any) -> None:
        drawn[name] = (
            lambda: getattr(interactive, function)(study, **arguments),
            lambda: getattr(pictures, function)(study, **arguments),
        )

    add("history", "plot_optimization_history", **said)
    if not searched:
        return drawn
    add("slice", "plot_slice", **said)
    if len(complete) > 1:
        importance = _importance(study, {"target": _first, **ranking} if several else {})
        if importance:
            add("importance", "plot_param_importances", **said, **ranking)
        ranked = [name for name in importance if name in searched] or searched
        if len(searched) > 1:
            add("parallel_coordinate", "plot_parallel_coordinate", **said)
            add("contour", "plot_contour", params=ranked[:CONTOUR_PARAMETERS], **said)
    if several:
        add("pareto", "plot_pareto_front", target_names=list(handle.settings.objectives))
    return drawn


def _first(trial: FrozenTrial) -> float:
    return trial.values[0]


def _importance(study: optuna.Study, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Optuna's parameter importances, the largest first; empty where all values or parameters are the same."""
    try:
        return optuna.importance.get_param_importances(study, **arguments)
    except (RuntimeError, ValueError):
        return {}
