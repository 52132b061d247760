"""Reporting of a study on its run: live best value, table of trials, figures, and the command that retrains the best."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from mm_balance import names
from mm_balance.config import Config, format_value, options, resolve, stage_options
from mm_balance.engine.recorder import MetricPoint
from mm_balance.study.figures import log_figures
from mm_balance.study.handle import StudyHandle
from mm_balance.study.settings import SEARCHED_GROUPS, Settings, configured_values, rounded, warmup_is_shared
from mm_balance.study.trials import EPOCHS, ORIGIN, all_trials, count_trials, counted_trials, describe
from mm_balance.tracking.lookup import page_link
from mm_balance.workflow.next_steps import command_line


def best_trial(handle: StudyHandle) -> FrozenTrial | None:
    """Return the complete trial with the best value; with two objectives, the one on the Pareto front best in the first."""
    trials = [trial for trial in all_trials(handle.study) if trial.state == TrialState.COMPLETE]
    if not trials:
        return None
    maximize = handle.settings.directions[0] == "maximize"
    if len(handle.settings.objectives) > 1:
        front = {trial.number for trial in handle.study.best_trials}
        trials = [trial for trial in trials if trial.number in front]
    return (max if maximize else min)(trials, key=lambda trial: trial.values[0])


def configured_trial(handle: StudyHandle) -> FrozenTrial | None:
    """Return the complete trial with the starting configuration; None if there is none."""
    trials = [trial for trial in all_trials(handle.study) if trial.state == TrialState.COMPLETE]
    return next((trial for trial in trials if ORIGIN in trial.user_attrs), None)


def best_so_far(trials: Sequence[FrozenTrial], direction: str) -> list[tuple[int, int, float]]:
    """Return, for each finished trial: number finished so far, milliseconds since 1970, best first objective of complete trials."""
    ended = sorted(
        (trial for trial in counted_trials(list(trials)) if trial.datetime_complete is not None),
        key=lambda trial: (trial.datetime_complete, trial.number),
    )
    better = max if direction == "maximize" else min
    series: list[tuple[int, int, float]] = []
    best: float | None = None
    for number, trial in enumerate(ended, 1):
        if trial.state == TrialState.COMPLETE:
            value = trial.values[0]
            best = value if best is None else better(best, value)
        if best is not None and trial.datetime_complete is not None:
            series.append((number, int(trial.datetime_complete.timestamp() * 1000), best))
    return series


class BestValueLogger:
    """Log the best value to the study's run while the study runs, each point once."""

    def __init__(self, handle: StudyHandle) -> None:
        self.handle = handle
        self.logged = handle.parent.last_step("study/best_value")

    def __call__(self, trials: Sequence[FrozenTrial]) -> None:
        series = best_so_far(trials, self.handle.settings.directions[0])
        fresh = [
            MetricPoint(step, moment, {"study/best_value": value})
            for step, moment, value in series
            if step > self.logged
        ]
        if fresh:
            self.handle.parent.log_points(fresh)
            self.logged = fresh[-1].step


def publish(handle: StudyHandle, *, started: float, warmup_epochs: int) -> None:
    """Log the current state of the study, except the confirmation.

    Args:
        handle: the study.
        started: start time of this command, in seconds of ``time.time``.
        warmup_epochs: epochs of warm-ups that this command trained; 0 if it reused existing ones.
    """
    trials = all_trials(handle.study)
    parent = handle.parent
    parent.log_json(asdict(handle.settings), names.STUDY_SETTINGS)
    parent.log_table([describe(trial, handle.settings.objectives) for trial in trials], names.STUDY_TABLE)
    log_figures(handle, trials)
    counts = count_trials(trials)
    step = counts.finished
    epochs = sum(trial.user_attrs.get(EPOCHS, 0) for trial in counted_trials(trials)) + warmup_epochs
    full = full_run_epochs(handle.settings) * max(step, 1)
    metrics = {
        "study/trials_complete": counts.complete,
        "study/trials_pruned": counts.pruned,
        "study/trials_failed": counts.failed,
        "study/epochs": epochs,
        "study/epochs_share": epochs / full,
        "study/minutes": (time.time() - started) / 60,
    }
    parent.log_metrics(metrics, step)
    best = best_trial(handle)
    if best is not None:
        config = handle.settings.config(best.params)
        parent.log_bytes(preset_text(config, handle, best).encode(), names.STUDY_BEST_PRESET)
    parent.describe(describe_study(handle, metrics))


def full_run_epochs(settings: Settings) -> int:
    """Return the epochs of one full run without a shared warm-up."""
    return settings.epochs + (settings.values["warmup_epochs"] if warmup_is_shared(settings.values) else 0)


def run_line(config: Config, handle: StudyHandle) -> str:
    """Return the command that trains ``config`` from the warm-up run of the study's trials."""
    settings = handle.settings
    command = "adaptive" if settings.adaptive else "train"
    if (warmup := handle.parent.read().data.tags.get("mm.warmup_run")) is not None:
        config = config.replace(warmup_run=warmup)
    accepted = stage_options(command)
    changed = changed_values(config, settings)
    return command_line(command, {name: format_value(value) for name, value in changed.items() if name in accepted})


def changed_values(config: Config, settings: Settings) -> dict[str, Any]:
    """Return what differs from the data set's preset and the declared defaults, by name, without machine parameters."""
    declared = options()
    default = resolve({"dataset": config.data.dataset}).values()
    changed = {
        name: value
        for name, value in config.values().items()
        if not declared[name].machine
        and (value != default[name] or (name == "dataset" and value != "digits"))
        and not (settings.adaptive and name == "method")
    }
    return changed if settings.adaptive or "method" in changed else {"method": config.method.method, **changed}


def preset_text(config: Config, handle: StudyHandle, best: FrozenTrial) -> str:
    """Return the values of ``config`` as the text of a preset file."""
    declared = options()
    # Seed, data and warm-up run are left to the next command.
    kept = (*SEARCHED_GROUPS, "method", "warmup", "train")
    body = {
        name: value
        for name, value in changed_values(config, handle.settings).items()
        if declared[name].group in kept or declared[name].by_preset
    }
    values = ", ".join(
        f"{name} {value:.4f}" for name, value in zip(handle.settings.objectives, best.values, strict=True)
    )
    data = {} if config.data.dataset == "digits" else {"dataset": config.data.dataset}
    head = [
        f"# Best of {count_trials(all_trials(handle.study)).finished} trials of study {handle.name}: trial {best.number}, {values} "
        f"(seed {config.run.seed}).",
        f"# Command: {run_line(config, handle)}",
        f"# or:      {command_line('main', {'preset': 'best.yaml', **data})}",
    ]
    return (
        "\n".join(head)
        + "\n"
        + (yaml.safe_dump(body, sort_keys=False) if body else "# Nothing differs from the defaults.\n")
    )


def describe_study(handle: StudyHandle, metrics: Mapping[str, float]) -> str:
    """Return the Markdown description of the study."""
    settings = handle.settings
    best = best_trial(handle)
    lines = [
        f"**Study `{handle.name}`**: {metrics['study/trials_complete']:.0f} trials complete, "
        f"{metrics['study/trials_pruned']:.0f} pruned, {metrics['study/trials_failed']:.0f} failed, of {handle.target_trials}; "
        f"{metrics['study/epochs']:.0f} epochs trained, {100 * metrics['study/epochs_share']:.0f} % of the same number of full runs.",
    ]
    how = f"Sampler {settings.sampler}, pruner {settings.pruner}, seed {settings.values['seed']}. Nothing was chosen on test data."
    if best is None:
        return "\n".join([*lines, "No trial is complete yet.", "", how, "", *_searched(settings, None)])
    # MLflow shows only the first lines until one clicks: they have the result.
    values = ", ".join(f"{name} **{value:.4f}**" for name, value in zip(settings.objectives, best.values, strict=True))
    lines += [f"Best: trial {best.number}, {values}."]
    start = configured_trial(handle)
    if start is not None:
        lines += [f"Starting configuration: trial {start.number}, {settings.objectives[0]} {start.values[0]:.4f}."]
    if len(settings.objectives) > 1:
        front = ", ".join(str(trial.number) for trial in handle.study.best_trials)
        lines += [f"Pareto front: trials {front}; the best is the one best in {settings.objectives[0]}."]
    lines += ["", how, "", f"See [all figures]({page_link(handle.parent, names.STUDY_PAGE)})."]
    config = settings.config(best.params)
    command = run_line(config, handle).replace(" -P ", " \\\n        -P ")  # a long line would widen the page in MLflow
    lines += [
        "",
        *_searched(settings, best),
        "",
        "Train it again:",
        "",
        f"    {command}",
        "",
        f"The same as a preset: `{names.STUDY_BEST_PRESET}`.",
    ]
    return "\n".join(lines)


def _searched(settings: Settings, best: FrozenTrial | None) -> list[str]:
    """Return a Markdown table of the searched parameters: range, starting configuration, best trial."""
    best_values = {} if best is None else rounded(best.params)
    start = configured_values(settings.values)
    rows = [
        f"| {name} | {str(item).split('=', 1)[1].replace('|', ', ')} | {format_value(start[name])} "
        f"| {format_value(best_values[name]) if name in best_values else ''} |"
        for name, item in settings.dimensions.items()
    ]
    return ["| parameter | searched | starting configuration | best trial |", "|---|---|---|---|", *rows]
