"""Warnings about inputs on which the model's answer means nothing, however sure it is."""

from __future__ import annotations

from torch import Tensor

from mm_balance.data.sound import SoundFacts
from mm_balance.input_kinds import IMAGE, SOUND, VIDEO
from mm_balance.serving.recipes import ModalityRecipe, Range, levels
from mm_balance.types import InputSpec

BLANK = 1e-3
"""Largest range within a channel, in normalized units, of a blank input. One gray level is about ten times that."""
MARGIN = 0.5
"""An input is far outside when it leaves the training range by more than this (normalized units), and by half the range's width."""
SHORT = 0.5
"""A sound is too short when it lasts less than this share of the shortest training sound."""


def warnings_of_values(values: Tensor, spec: InputSpec, recipe: ModalityRecipe) -> list[list[str]]:
    """Return the warnings about network inputs, one list for each.

    Args:
        values: ``(batch, *spec.shape)``.
        spec: format of the modality.
        recipe: recipe of the modality, with the range of the training samples.
    """
    what = {SOUND: "spectrogram", IMAGE: "picture", VIDEO: "picture"}.get(recipe.kind, recipe.kind)
    found = []
    for level, spread, contrast in zip(*(item.tolist() for item in levels(values, spec)), strict=True):
        if contrast < BLANK:
            found.append([f"constant {what}: nothing to recognize"])
            continue
        outside = [
            f"{name} {value:.2f}, there {bounds[0]:.2f} to {bounds[1]:.2f}"
            for name, value, bounds in (
                ("mean", level, recipe.training.level),
                ("spread", spread, recipe.training.spread),
            )
            if _far_outside(value, bounds)
        ]
        found.append(
            [f"far from the training data (in its standard deviations): {'; '.join(outside)}"] if outside else []
        )
    return found


def warnings_of_sound(facts: SoundFacts, recipe: ModalityRecipe) -> list[str]:
    """Return the warnings about a sound file before it was cut or extended."""
    training = recipe.training
    found = []
    if training.seconds is not None and facts.seconds < SHORT * training.seconds[0]:
        found.append(
            f"too short: {facts.seconds:.3g} s, training sounds lasted {training.seconds[0]:.3g} to {training.seconds[1]:.3g} s"
        )
    if training.rate is not None and facts.rate < training.rate[0]:
        found.append(
            f"sampled at {facts.rate:,} Hz, training sounds at {training.rate[0]:,.0f} Hz or more: high frequencies are missing"
        )
    return found


def _far_outside(value: float, bounds: Range) -> bool:
    low, high = bounds
    margin = max(MARGIN, (high - low) / 2)
    return not low - margin <= value <= high + margin
