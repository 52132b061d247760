"""What a result means, in words: which modality is ahead and by how much, against chance and against the warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

CONFIDENCE = 1.96
"""Standard errors in a 95 % interval."""


@dataclass(frozen=True)
class Scores:
    """Accuracies on one split, 0 to 1.

    Attributes:
        fused: of all modalities together.
        alone: modality, as shown to the reader -> of that modality alone.
    """

    fused: float
    alone: Mapping[str, float]

    @classmethod
    def of(cls, metrics: Mapping[str, float], prefix: str, shown: Mapping[str, str]) -> Scores:
        """Read them from metrics ``prefix/...``; ``shown`` maps modalities to the names that the reader sees."""
        alone = {label: metrics[f"{prefix}/accuracy_{name}"] for name, label in shown.items()}
        return cls(metrics[f"{prefix}/accuracy"], alone)

    @property
    def lead(self) -> float:
        """Accuracy of the best modality minus that of the weakest."""
        return max(self.alone.values()) - min(self.alone.values())

    def __str__(self) -> str:
        alone = [f"{name} {100 * value:.1f} %" for name, value in self.alone.items()]
        return ", ".join([f"fused {100 * self.fused:.1f} %", *alone])


def chance_level(train_labels: Tensor, labels: Tensor) -> float:
    """Return the accuracy on ``labels`` (N,) of always naming the most frequent class of ``train_labels``, 0 to 1."""
    return float((labels == train_labels.bincount().argmax()).double().mean())


def margin(first: float, second: float, samples: int) -> float:
    """Return the 95 % half-width of the difference of two accuracies on as many samples each, taken as independent, 0 to 1."""
    return CONFIDENCE * math.sqrt((first * (1 - first) + second * (1 - second)) / samples)


def verdict(scores: Scores, samples: int, chance: float, before: Scores | None) -> list[str]:
    """Return the verdict on a validation split as sentences of Markdown, the most important one first.

    Args:
        scores: accuracies at the end.
        samples: number of validation samples.
        chance: accuracy of always naming the most frequent class.
        before: accuracies after the warm-up; None = there was none, or they are not known.

    Example:
        >>> after = Scores(0.92, {"audio": 0.88, "visual": 0.79})
        >>> warm = Scores(0.85, {"audio": 0.8, "visual": 0.44})
        >>> for line in verdict(after, 500, 0.1, warm):
        ...     print(line)
        **On validation, audio is ahead of visual by 9.0 points** (±4.6; fused 92.0 %, audio 88.0 %, visual 79.0 %).
        After the warm-up it was audio by 36.0 points (fused 85.0 %, audio 80.0 %, visual 44.0 %).
        Chance: 10.0 %.
    """
    best, weakest = (choose(scores.alone, key=lambda name: scores.alone[name]) for choose in (max, min))
    lines = []
    if len(scores.alone) > 1:
        width = margin(scores.alone[best], scores.alone[weakest], samples)
        by = f"{100 * scores.lead:.1f} points"
        if scores.lead > width:
            lines.append(f"**On validation, {best} is ahead of {weakest} by {by}** (±{100 * width:.1f}; {scores}).")
        else:
            lines.append(
                f"**On validation, no modality is clearly ahead**: best and weakest differ by {by}, and {samples:,} samples leave "
                f"±{100 * width:.1f} open ({scores})."
            )
    else:
        lines.append(f"**On validation: {scores}.**")
    if before is not None:
        leader = max(before.alone, key=lambda name: before.alone[name])
        lines.append(f"After the warm-up it was {leader} by {100 * before.lead:.1f} points ({before}).")
    at_chance = [
        name for name, value in {"fused": scores.fused, **scores.alone}.items()
        if value <= chance + CONFIDENCE * math.sqrt(chance * (1 - chance) / samples)
    ]  # fmt: skip
    warning = f" **Not above it: {', '.join(at_chance)}.**" if at_chance else ""
    lines.append(f"Chance: {100 * chance:.1f} %.{warning}")
    return lines
