"""Commands that answer the next question about a run: how to go on with it, test accuracy, another seed, the control."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mm_balance.config import AUTO, GROUPS, NONE, Config, MethodOptions, options, stage_options
from mm_balance.config.datasets import is_at_hand
from mm_balance.escaping import markdown_code
from mm_balance.workflow.titles import overrides

if TYPE_CHECKING:
    from mm_balance.tracking.runs import TrackedRun

CONTROL = "concat_unimodal"
"""Joint training with unimodal losses: what a method against imbalance must beat."""


def next_steps(
    command: str,
    config: Config,
    run_id: str,
    *,
    from_scratch: bool,
    warmup_run: str | None = None,
    remedies: Sequence[tuple[str, Mapping[str, str]]] = (),
    experiment: str | None = None,
) -> list[str]:
    """Return what to run next, as items of a Markdown list.

    Args:
        command: the command whose run it is, a key of ``STAGES``.
        config: its configuration.
        run_id: its run.
        from_scratch: whether the run needed no earlier warm-up run, so that it can be repeated in one command.
        warmup_run: the warm-up run that it started from, if any.
        remedies: what avoids the warnings about its gaps, as (what for, parameters).
        experiment: name of its experiment; None = say nothing of a report.
    """
    if command == "warmup":
        return [f"- The second stage: {markdown_code(command_line('adaptive', {'warmup_run': run_id}))}"]
    lines = []
    at_hand = is_at_hand(config.data.dataset)
    if command != "main" and not at_hand:
        lines.append(
            f"- Test accuracy, when nothing is left to choose: {markdown_code(command_line('evaluate', {'run_id': run_id}))}"
        )
    same = to_repeat(command, config)
    start = {} if from_scratch or warmup_run is None else {"warmup_run": warmup_run}
    for what, settings in remedies:
        lines.append(
            f"- {what}: {markdown_code(command_line(command, {**start, **same, **settings}, at_hand=at_hand))}"
        )
    if from_scratch:
        another = command_line(command, {**same, "seed": str(config.run.seed + 1)}, at_hand=at_hand)
        lines.append(f"- Luck or effect? More seeds: {markdown_code(another)}")
        if config.method.method != CONTROL:
            control = command_line(command, {**_without_method(same), "method": CONTROL}, at_hand=at_hand)
            lines.append(f"- Better than unimodal losses alone? The control: {markdown_code(control)}")
    if experiment is not None:
        report = command_line("report", {"experiment": experiment})
        lines.append(f"- All runs of this experiment in tables and figures: {markdown_code(report)}")
    return lines


def announce(run: TrackedRun, go_on: str) -> None:
    """Print, before anything can go wrong, which run it is and how to go on with it; and say so on its page until it has results."""
    print(f"run:  {run.run_id}\nif it is stopped or killed, go on with: {go_on}", flush=True)
    if not run.description():
        run.describe(f"Not finished yet. If it was stopped or killed, go on with: `{go_on}`")


def command_line(command: str, values: Mapping[str, str], *, at_hand: bool = False) -> str:
    """Return the line that starts ``command`` with these parameters, quoted for a shell.

    ``at_hand``: the data were given by a program, so that the line is one of Python.
    """
    if at_hand:
        return _python_line(command, values)
    entry = "" if command == "main" else f" -e {command}"
    parts = [f"-P {shlex.quote(f'{name}={value}')}" for name, value in values.items()]
    return " ".join([f"mlflow run . --env-manager local{entry}", *parts])


def _python_line(command: str, values: Mapping[str, str]) -> str:
    declared = options()
    given = [] if command == "main" else ["warmup=False"]
    for name, value in values.items():
        plain = declared[name].type in (int, float) and value not in (AUTO, NONE)
        if name not in ("dataset", "modalities"):
            given.append(f"{name}={value if plain else repr(value)}")
    return f"mm_balance.run({', '.join(['data', *given])})"


def to_repeat(command: str, config: Config) -> dict[str, str]:
    """Return the parameters that start the same training again, without those at their usual values."""
    values = config.values()
    own = {name: value for name, value in overrides(command, config).items() if name in values}
    usual = {"dataset": "digits", "seed": 0, "method": "gap_mixture" if command == "main" else "concat"}
    takes = stage_options(command)  # `adaptive` has its one method
    named = {name: str(values[name]) for name, value in usual.items() if values[name] != value and name in takes}
    text = values["method_options"]
    return named | own | ({} if text is None or "method_options" not in takes else {"method_options": text})


def _without_method(values: Mapping[str, str]) -> dict[str, str]:
    """Return ``values`` without the method and its options."""
    declared = options()
    return {
        name: value
        for name, value in values.items()
        if name not in ("method", "method_options") and not issubclass(GROUPS[declared[name].group], MethodOptions)
    }
