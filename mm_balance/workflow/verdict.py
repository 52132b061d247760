"""What a result means, in words: which modality is ahead and by how much, against chance and against the warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mm_balance.functional.labels import class_sizes, has_several_classes

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
        return ", ".join([f"fused **{100 * self.fused:.1f} %**", *alone])


def chance_level(train_labels: Tensor, labels: Tensor, classes: int) -> float:
    """Return the accuracy on ``labels`` of always naming the most frequent class of ``train_labels``, 0 to 1.

    Args:
        train_labels: ``(samples,)`` int64, or multi-hot.
        labels: labels of the same form, of another split.
        classes: number of classes.
    """
    named = class_sizes(train_labels, classes).argmax()
    right = labels[:, named] if has_several_classes(labels) else labels == named
    return float(right.double().mean())


def margin(first: float, second: float, samples: int) -> float:
    """Return the 95 % half-width of the difference of two accuracies on as many samples each, taken as independent, 0 to 1."""
    return CONFIDENCE * math.sqrt((first * (1 - first) + second * (1 - second)) / samples)


def who_is_ahead(split: str, scores: Scores, samples: int) -> str:
    """Return the accuracies on a split of ``samples`` samples and which modality is clearly ahead, if any, as sentences of Markdown.

    Example:
        >>> who_is_ahead("validation", Scores(0.92, {"audio": 0.88, "visual": 0.79}), 500)  # doctest: +NORMALIZE_WHITESPACE
        'Validation accuracy: fused **92.0 %**, audio 88.0 %, visual 79.0 %. **On validation, audio is ahead of visual by 9.0 points**
        (95 % interval over 500 samples: ±4.6).'
    """
    said = f"{split.capitalize()} accuracy: {scores}."
    if len(scores.alone) < 2:
        return said
    best, weakest = _extremes(scores)
    interval = f"95 % interval over {samples:,} samples: ±{100 * margin(scores.alone[best], scores.alone[weakest], samples):.1f}"
    lead = f"{100 * scores.lead:.1f} points"
    if _leader(scores, samples) is not None:
        return f"{said} **On {split}, {best} is ahead of {weakest} by {lead}** ({interval})."
    return f"{said} **On {split}, no modality is clearly ahead**: best and weakest differ by {lead} ({interval})."


def disagreement(
    validation: Scores, validation_samples: int, test: Scores, test_samples: int, *, other_groups: bool = False
) -> list[str]:
    """Return a sentence if validation and test name different modalities as ahead, or only one of them names any; else nothing.

    Args:
        validation: accuracies on validation.
        validation_samples: its size.
        test: accuracies on test, of the same modalities.
        test_samples: its size.
        other_groups: whether the data set names groups, and no group is in both splits.

    Example:
        >>> after, later = Scores(0.92, {"audio": 0.88, "visual": 0.77}), Scores(0.94, {"audio": 0.79, "visual": 0.8})
        >>> disagreement(after, 500, later, 1000)  # doctest: +NORMALIZE_WHITESPACE
        ['Validation and test disagree on who is ahead, by more than their intervals allow for: audio minus visual is +11.0 points on
        validation, -1.0 on test.']
    """
    if len(validation.alone) < 2 or _leader(validation, validation_samples) == _leader(test, test_samples):
        return []
    best, weakest = _extremes(validation)
    first, second = (scores.alone[best] - scores.alone[weakest] for scores in (validation, test))
    widths = [
        margin(scores.alone[best], scores.alone[weakest], samples)
        for scores, samples in ((validation, validation_samples), (test, test_samples))
    ]
    how = "by more than" if abs(first - second) > math.hypot(*widths) else "but by no more than"
    groups = " Validation and test have no group (speaker, source video or the like) in common." if other_groups else ""
    return [
        f"Validation and test disagree on who is ahead, {how} their intervals allow for: {best} minus {weakest} is "
        f"{100 * first:+.1f} points on validation, {100 * second:+.1f} on test.{groups}"
    ]


def gained(scores: Scores, before: Scores, *, is_control: bool = False) -> str:
    """Return what a second stage changed on validation, as sentences.

    Args:
        scores: accuracies at the end.
        before: accuracies after the warm-up.
        is_control: whether the method is itself the control that others are compared with.

    Example:
        >>> gained(Scores(0.92, {"audio": 0.88}), Scores(0.85, {"audio": 0.8}), is_control=True)
        'The second stage, against the warm-up: fused +7.0, audio +8.0 points on validation.'
    """
    changes = {"fused": scores.fused - before.fused}
    changes |= {name: value - before.alone[name] for name, value in scores.alone.items()}
    said = ", ".join(f"{name} {100 * change:+.1f}" for name, change in changes.items())
    doubt = (
        "" if is_control else " Only a control trained as long says whether the method or the longer training did it."
    )
    return f"The second stage, against the warm-up: {said} points on validation.{doubt}"


def against_chance(scores: Scores, samples: int, chance: float) -> str:
    """Return the accuracy of always naming the most frequent class, and what is not above it on a split of ``samples`` samples.

    Example:
        >>> against_chance(Scores(0.9, {"audio": 0.7, "text": 0.11}), 500, 0.1)
        'Chance: 10.0 %. **Not above it: text.**'
    """
    highest = chance + CONFIDENCE * math.sqrt(chance * (1 - chance) / samples)
    at_chance = [name for name, value in {"fused": scores.fused, **scores.alone}.items() if value <= highest]
    warning = f" **Not above it: {', '.join(at_chance)}.**" if at_chance else ""
    return f"Chance: {100 * chance:.1f} %.{warning}"


def _extremes(scores: Scores) -> tuple[str, str]:
    """Return the best and the weakest modality."""
    best, weakest = (choose(scores.alone, key=lambda name: scores.alone[name]) for choose in (max, min))
    return best, weakest


def _leader(scores: Scores, samples: int) -> str | None:
    """Return the modality that is ahead of the weakest by more than the interval; None = none is."""
    best, weakest = _extremes(scores)
    return best if scores.lead > margin(scores.alone[best], scores.alone[weakest], samples) else None
