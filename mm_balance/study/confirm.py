"""From the best trial to a result: it and the configuration that the study began from, trained again on new seeds.

The trainings are the trials of a second Optuna study, so the same workers, retries and locks serve them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mm_balance import names
from mm_balance.config import Config
from mm_balance.functional.metrics import paired_interval
from mm_balance.study.handle import StudyHandle, make_study, pin_warmups
from mm_balance.study.trials import CONFIRMATION, TRIALS, all_trials, counted_trials

LABELS = ("best", "start")


def new_seeds(handle: StudyHandle, seeds: int) -> list[int]:
    """Those after the study's own."""
    first = handle.settings.values["seed"] + 1
    return list(range(first, first + seeds))


def seed_configs(handle: StudyHandle, seeds: Sequence[int]) -> list[Config]:
    """The starting configuration on each seed, whose warm-up both trainings share."""
    return [handle.settings.config({}, seed=seed) for seed in seeds]


def open_confirmation(
    handle: StudyHandle, best: FrozenTrial, seeds: Sequence[int], warmups: Mapping[str, str]
) -> StudyHandle:
    """The second study, with a trial for each label and seed that it lacks.

    Args:
        handle: the first one.
        best: its best trial.
        seeds: to train on.
        warmups: seed (as text) -> warm-up run, for seeds that the second study has none for yet.
    """
    plain = replace(handle.settings, dimensions={}, pruner="none", sampler="random")
    second = pin_warmups(make_study(f"{handle.name}-confirm", handle.location, plain, handle.parent, 0), warmups)
    known = [trial.user_attrs[CONFIRMATION] for trial in all_trials(second.study)]
    for seed in seeds:
        for label, parameters in zip(LABELS, (best.params, {}), strict=True):
            confirmation = {"label": label, "seed": seed, "parameters": parameters}
            if confirmation not in known:
                second.study.enqueue_trial({}, user_attrs={CONFIRMATION: confirmation})
    second.study.set_user_attr(TRIALS, len(counted_trials(all_trials(second.study))))
    return second


def compare(
    trials: Sequence[FrozenTrial], best: Mapping[str, Any], seeds: Sequence[int], direction: str
) -> dict[str, Any]:
    """Seed by seed, best trial minus starting configuration, so that more than 0 is better.

    Args:
        trials: of the second study.
        best: the best trial's parameters.
        seeds: which to compare.
        direction: ``maximize`` or ``minimize``.

    Returns:
        ``rows`` (seed, best, start, difference; None where a training failed), ``mean`` and ``std`` of the differences,
        ``interval`` (95 %, Student's t), ``better_on`` and ``seeds``; the numbers are missing where fewer than two seeds are
        complete.
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
    told: dict[str, Any] = {"rows": rows, "seeds": len(differences), "better_on": sum(item > 0 for item in differences)}
    if len(differences) > 1:
        mean, low, high = paired_interval(differences)
        told |= {"mean": mean, "std": statistics.stdev(differences), "interval": [low, high]}
    return told


def verdict(told: Mapping[str, Any], objective: str) -> str:
    """One honest sentence."""
    if "mean" not in told:
        return f"Confirmation: only {told['seeds']} seed(s) complete, too few to compare."
    low, high = told["interval"]
    finding = "beats" if low > 0 else "is worse than" if high < 0 else "is not shown to beat"
    return (
        f"On {told['seeds']} new seeds the best trial {finding} the starting configuration: difference in {objective} "
        f"{told['mean']:+.4f} ± {told['std']:.4f} (mean ± standard deviation), 95 % interval [{low:+.4f}, {high:+.4f}], better on "
        f"{told['better_on']}."
    )


def publish_confirmation(handle: StudyHandle, told: Mapping[str, Any]) -> str:
    """Log it on the study's run and add it to the run's description. Returns the sentence."""
    objective = handle.settings.objectives[0]
    handle.parent.log_json(dict(told), names.STUDY_CONFIRMATION)
    sentence = verdict(told, objective)
    if "mean" in told:
        found = {"study/confirmed_difference": told["mean"], "study/confirmed_difference_std": told["std"]}
        # Points cannot be taken back: each confirmation is one more, and the last one is what the run shows.
        handle.parent.log_metrics(found, 1 + handle.parent.last_step("study/confirmed_difference"))
    cells = [
        f"| {row['seed']} | "
        + " | ".join("failed" if row[name] is None else f"{row[name]:.4f}" for name in ("best", "start", "difference"))
        + " |"
        for row in told["rows"]
    ]
    table = ["| seed | best trial | starting configuration | difference |", "|--:|--:|--:|--:|", *cells]
    handle.parent.describe("\n".join([handle.parent.description(), "", sentence, "", *table]))
    return sentence
