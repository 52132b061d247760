"""How long a training or a study on a CPU would take, said before it begins if that is long."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection

import torch

from mm_balance.config import Config
from mm_balance.config.datasets import is_at_hand, is_own
from mm_balance.config.per_modality import by_modality
from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.data.card import card_samples
from mm_balance.data.suggestions import as_words, suggested_settings
from mm_balance.input_kinds import IMAGE, SOUND, VIDEO
from mm_balance.types import Clock
from mm_balance.workflow.build import build_stage
from mm_balance.workflow.next_steps import command_line, to_repeat
from mm_balance.workflow.plans import train_plan
from mm_balance.workflow.setup import resolve_device

MEASURED_SAMPLES = 4
LONG_HOURS = 1 / 6
"""From here on there is time to read a line and start again."""
SHARES = 4 / 3
"""Training steps (one forward, one backward pass of twice the length) and what is predicted besides."""


def warn_if_long(
    config: Config,
    data: MultimodalData,
    epochs: int,
    takes: Collection[str],
    *,
    command: str = "main",
    study: str | None = None,
    may_end_early: bool = False,
) -> None:
    """Print one line if a command trains for more than ``LONG_HOURS`` on a CPU: the hours, and settings that fit the data set.

    Of the user's own data only: the built-in sets have presets that say what they cost. Nothing is changed.

    Args:
        config: the configuration.
        data: its data.
        epochs: length of all stages; of a study, of what is trained one after the other.
        takes: parameters of the command, of which some are suggested.
        command: the command, which data at hand are trained by from Python: ``main`` or ``train``.
        study: of a study, what is trained in these epochs; None = it is a training.
        may_end_early: whether the hours are an upper limit, because a study prunes trials.
    """
    if not is_own(config.data.dataset) or resolve_device(config.run.device).type != "cpu":
        return
    seconds, samples = seconds_per_sample(config, data), len(data.splits["train"])
    hours = seconds * SHARES * samples * epochs / 3600
    if hours <= LONG_HOURS:
        return
    declared = config.values()
    fitting = suggested_settings(card_samples(data), [spec.kind for spec in data.specs.values()])
    if "encoder" in fitting:
        fitting["encoder"] = _with_small_encoders(declared["encoder"], data, fitting["encoder"])
    changed = {name: value for name, value in fitting.items() if name in takes and str(declared[name]) != value}
    about = "at most about" if may_end_early else "about"
    parts = [
        f"{about} {hours:,.1f} hours on this CPU ({samples:,} samples, {study or f'{epochs} epochs'}, {seconds:.2f} s a sample)"
    ]
    if changed:
        parts.append(f"settings that fit: {_in_words(command, config, changed)}")
    if study is not None:
        parts.append("fewer trials: -P trials=NUMBER")
    print(f"mm-balance: warning: {'; '.join(parts)}", file=sys.stderr)


def _with_small_encoders(chosen: str, data: MultimodalData, small: str) -> str:
    """Return the parameter ``encoder`` with ``small`` for what is seen or heard; what is chosen for vectors and sequences stays."""
    encoders = by_modality("encoder", chosen, list(data.specs))
    seen_or_heard = {name for name, spec in data.specs.items() if spec.kind in (SOUND, IMAGE, VIDEO)}
    fitting = {name: small if name in seen_or_heard else encoder for name, encoder in encoders.items()}
    if fitting == encoders:
        return chosen
    return small if len(set(encoders.values())) == 1 else ",".join(f"{name}:{item}" for name, item in fitting.items())


def _in_words(command: str, config: Config, settings: dict[str, str]) -> str:
    """Return settings as words to add to the command line; for data at hand, as the call with what was given and them."""
    if not is_at_hand(config.data.dataset):
        return as_words(settings)
    return command_line(command, {**to_repeat(command, config), **settings}, at_hand=True)


def seconds_per_sample(config: Config, data: MultimodalData) -> float:
    """Return the seconds that a training step takes per sample, measured on a few samples; the first step, which allocates, is not."""
    plan = train_plan(config.replace(method="concat", method_options=None))
    part = data.splits["train"].subset(torch.arange(min(MEASURED_SAMPLES, len(data.splits["train"]))))
    stage = build_stage(plan, data, title="measuring")
    stage.model.train()
    (batch,) = BatchLoader(part, MEASURED_SAMPLES).epoch(0, stage.device)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        stage.method.update(stage.model, batch, stage.optimizer_step, Clock(0, 0, 1))
        seconds = time.perf_counter() - started
    return seconds / len(part)
