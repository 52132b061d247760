"""How long a training on a CPU would take, said before it begins if that is long."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection

import torch

from mm_balance.config import Config
from mm_balance.config.datasets import builder_path
from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.data.suggestions import as_words, suggested_settings
from mm_balance.types import Clock
from mm_balance.workflow.build import build_stage
from mm_balance.workflow.card import card_samples
from mm_balance.workflow.plans import train_plan
from mm_balance.workflow.setup import resolve_device

MEASURED_SAMPLES = 4
LONG_HOURS = 1 / 6
"""From here on there is time to read a line and start again."""
SHARES = 4 / 3
"""Training steps (one forward, one backward pass of twice the length) and what is predicted besides."""


def warn_if_long(config: Config, data: MultimodalData, epochs: int, takes: Collection[str]) -> None:
    """Print one line if a training on a CPU takes more than ``LONG_HOURS``: the hours, and settings that fit the data set.

    Of the user's own data only: the built-in sets have presets that say what they cost. Nothing is changed.

    Args:
        config: the configuration.
        data: its data.
        epochs: length of all stages.
        takes: parameters of the command, of which some are suggested.
    """
    own = config.data.dataset.endswith(".csv") or builder_path(config.data.dataset) is not None
    if not own or resolve_device(config.run.device).type != "cpu":
        return
    seconds = seconds_per_sample(config, data)
    hours = seconds * SHARES * len(data.splits["train"]) * epochs / 3600
    if hours <= LONG_HOURS:
        return
    declared = config.values()
    known = card_samples(data) if data.table else []
    fitting = suggested_settings(known, [spec.kind for spec in data.specs.values()])
    changed = {name: value for name, value in fitting.items() if name in takes and str(declared[name]) != value}
    print(
        f"mm-balance: warning: about {hours:,.1f} hours on this CPU ({len(data.splits['train']):,} samples, {epochs} epochs, "
        f"{seconds:.2f} s a sample); settings that fit: {as_words(changed)}",
        file=sys.stderr,
    )


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
