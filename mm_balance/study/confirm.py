"""Confirmation of the best trial: it and the starting configuration of the study are retrained on new seeds.

The training runs are the trials of a second Optuna study, with the same workers, retries and locks.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mm_balance import names
from mm_balance.config import Config
from mm_balance.errors import UserError
from mm_balance.functional.metrics import paired_interval
from mm_balance.study.handle import StudyHandle, make_study, pin_warmups
from mm_balance.study.trials import CONFIRMATION, RUN, TRIALS, all_trials, counted_trials
from mm_balance.tracking.runs import TrackedRun

LABELS = ("best", "start")
CHAMPION = "champion"


def new_seeds(handle: StudyHandle, seeds: int) -> list[int]:
    """Return the seeds that follow the study's own."""
    first = handle.settings.values["seed"] + 1
    return list(range(first, first + seeds))


def seed_configs(handle: StudyHandle, seeds: Sequence[int]) -> list[Config]:
    """Return the starting configuration for each seed; both runs of a seed share its warm-up."""
    return [handle.settings.config({}, seed=seed) for seed in seeds]


def open_confirmation(
    handle: StudyHandle, best: FrozenTrial, seeds: Sequence[int], warmups: Mapping[str, str]
) -> StudyHandle:
    """Create or open the second study, and queue a trial for each label and seed that it lacks.

    Args:
        handle: the first study.
        best: its best trial.
        seeds: seeds to train on.
        warmups: seed (as text) -> warm-up run, for seeds for which the second study has none yet.
    """
    plain = replace(handle.settings, dimensions={}, pruner="none", sampler="random")
    second = pin_warmups(make_study(f"{handle.name}-confirm", handle.location, plain, handle.parent, 0), warmups)
    queued = [trial.user_attrs[CONFIRMATION] for trial in all_trials(second.study)]
    for seed in seeds:
        for label, parameters in zip(LABELS, (best.params, {}), strict=True):
            confirmation = {"label": label, "seed": seed, "parameters": parameters}
            if confirmation not in queued:
                second.study.enqueue_trial({}, user_attrs={CONFIRMATION: confirmation})
    second.study.set_user_attr(TRIALS, len(counted_trials(all_trials(second.study))))
    return second


def compare(
    trials: Sequence[FrozenTrial], best: Mapping[str, Any], seeds: Sequence[int], direction: str
) -> dict[str, Any]:
    """Compare best trial and starting configuration seed by seed; a difference above 0 means that the best trial is better.

    Args:
        trials: trials of the second study.
        best: the best trial's parameters.
        seeds: seeds to compare.
        direction: ``maximize`` or ``minimize``.

    Returns:
        ``rows`` (seed, best, start, difference; None if a training run failed), ``mean`` and ``std`` of the differences,
        ``interval`` (95 %, Student's t), ``better_on`` and ``seeds``; ``mean``, ``std`` and ``interval`` are missing if fewer
        than two seeds are complete.
    """
    values: dict[tuple[str, int], float] = {}
    for trial in trials:
        confirmation = trial.user_attrs[CONFIRMATION]
        if trial.state == TrialState.COMPLETE and confirmation["parameters"] == (
            best if confirmation["label"] == "best" else {}
        ):
            values[confirmation["label"], confirmation["seed"]] = trial.values[0]
    sign = 1 if direction == "maximize" else -1
    rows, differences = [], []
    for seed in seeds:
        pair = [values.get((label, seed)) for label in LABELS]
        difference = None if None in pair else sign * (pair[0] - pair[1])  # type: ignore[operator]
        rows.append({"seed": seed, "best": pair[0], "start": pair[1], "difference": difference})
        differences += [] if difference is None else [difference]
    comparison: dict[str, Any] = {
        "rows": rows,
        "seeds": len(differences),
        "better_on": sum(item > 0 for item in differences),
    }
    if len(differences) > 1:
        mean, low, high = paired_interval(differences)
        comparison |= {"mean": mean, "std": statistics.stdev(differences), "interval": [low, high]}
    return comparison


def verdict(comparison: Mapping[str, Any], objective: str) -> str:
    """Return the result of the confirmation in one sentence."""
    if "mean" not in comparison:
        return f"Confirmation: only {comparison['seeds']} seed(s) complete, too few to compare."
    low, high = comparison["interval"]
    finding = "beats" if low > 0 else "is worse than" if high < 0 else "is not shown to beat"
    return (
        f"On {comparison['seeds']} new seeds the best trial {finding} the starting configuration: difference in {objective} "
        f"{comparison['mean']:+.4f} ± {comparison['std']:.4f} (mean ± standard deviation), 95 % interval [{low:+.4f}, {high:+.4f}], "
        f"better on {comparison['better_on']}."
    )


def register_winner(
    handle: StudyHandle,
    trials: Sequence[FrozenTrial],
    comparison: Mapping[str, Any],
    best: Mapping[str, Any],
    name: str,
) -> str:
    """Register the model of the best trial as ``name`` with the alias ``champion``, if new seeds confirm it.

    Of the models that the confirmation trained with the best trial's parameters, it is the one with the best validation objective.

    Args:
        handle: the study.
        trials: trials of the second study.
        comparison: what ``compare`` returned for them.
        best: the best trial's parameters.
        name: name in the model registry.

    Returns:
        What was done, in one sentence.
    """
    if "mean" not in comparison or comparison["interval"][0] <= 0:
        return f"register_as={name}: nothing registered, because new seeds do not show that the best trial is better."
    sign = 1 if handle.settings.directions[0] == "maximize" else -1
    seeds = [row["seed"] for row in comparison["rows"]]
    trained = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and (confirmation := trial.user_attrs[CONFIRMATION])["label"] == LABELS[0]
        and confirmation["parameters"] == best
        and confirmation["seed"] in seeds
    ]
    winner = max(trained, key=lambda trial: sign * trial.values[0])
    run = TrackedRun(winner.user_attrs[RUN])
    logged = run.latest_model()
    if logged is None:
        raise UserError(f"register_as={name}: the confirmed run {run.run_id} has no model")
    why = f"Winner of study `{handle.name}`. {verdict(comparison, handle.settings.objectives[0])}"
    version = run.register_model(logged[0], name, f"{why}\n\n{run.description()}", alias=CHAMPION)
    return f"Registered as `{name}`, version {version}, alias `{CHAMPION}`: the model of run `{run.run_id}`."


def publish_confirmation(handle: StudyHandle, comparison: Mapping[str, Any]) -> str:
    """Log the comparison on the study's run, add it to the description, and return its ``verdict``."""
    objective = handle.settings.objectives[0]
    handle.parent.log_json(dict(comparison), names.STUDY_CONFIRMATION)
    sentence = verdict(comparison, objective)
    if "mean" in comparison:
        metrics = {
            "study/confirmed_difference": comparison["mean"],
            "study/confirmed_difference_std": comparison["std"],
        }
        # Points cannot be deleted: each confirmation adds one, and MLflow shows the last.
        handle.parent.log_metrics(metrics, 1 + handle.parent.last_step("study/confirmed_difference"))
    cells = [
        f"| {row['seed']} | "
        + " | ".join("failed" if row[name] is None else f"{row[name]:.4f}" for name in ("best", "start", "difference"))
        + " |"
        for row in comparison["rows"]
    ]
    table = ["| seed | best trial | starting configuration | difference |", "|--:|--:|--:|--:|", *cells]
    first, _, rest = handle.parent.description().partition("\n\n")
    title = "Trained again with new seeds:"
    handle.parent.describe("\n".join([first, sentence, "", rest, "", title, "", *table]))
    return sentence
