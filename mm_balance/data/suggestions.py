"""Settings that fit a data set on a machine without a GPU, from what its files are like."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence

from mm_balance.data.card import CardSample
from mm_balance.input_kinds import IMAGE, SOUND, VIDEO

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 64
"""Side lengths in pixels between which a small network on a CPU learns and is quick."""
LONGEST_CLIP = 10.0
COMMON = 0.95
"""Share of the sounds that are not cut."""
BRIEF = {
    "batch_size": "32", "learning_rate": "0.02", "learning_rate_schedule": "cosine", "warmup_epochs": "6", "adaptive_epochs": "12",
    "epochs": "18", "refit_every": "3",
}  # fmt: skip
"""A training with which small data sets come to results in minutes: that of the example in docs/data.md."""


def suggested_settings(samples: Sequence[CardSample], kinds: Collection[str]) -> dict[str, str]:
    """Return parameter -> value.

    Args:
        samples: what is known of the samples.
        kinds: kinds of the modalities, keys of ``INPUT_KINDS``.
    """
    settings = {}
    if {SOUND, IMAGE, VIDEO} & set(kinds):
        settings["encoder"] = "resnet_narrow"
    if edges := [max(size) for sample in samples for size in sample.size.values()]:
        edge = 8 * math.ceil(statistics.median(edges) / 8)
        settings["image_size"] = str(min(max(edge, SMALLEST_IMAGE), LARGEST_IMAGE))
    sounds = sorted(seconds for sample in samples for name, seconds in sample.seconds.items() if name in sample.rate)
    if sounds:
        common = sounds[min(len(sounds) - 1, int(COMMON * len(sounds)))]
        settings["clip_seconds"] = f"{min(max(math.ceil(10 * common - 1e-6) / 10, 0.1), LONGEST_CLIP):g}"
    return settings | BRIEF


def as_words(settings: dict[str, str]) -> str:
    """Return settings as on the command line."""
    return " ".join(f"-P {name}={value}" for name, value in settings.items())
