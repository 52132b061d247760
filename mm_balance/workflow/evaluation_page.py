"""What an evaluation's page shows beside its metrics: confusions, calibration, and the gap of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mm_balance import names
from mm_balance.figures import Reliability, confusion_matrices, gap_per_class, reliability_diagram, render
from mm_balance.functional.gap import modality_gap
from mm_balance.functional.labels import class_probabilities, has_several_classes, is_named_right, samples_by_class
from mm_balance.functional.metrics import average_precisions
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import SplitPredictions
from mm_balance.workflow.verdict import CONFIDENCE

BINS = 15


def publish_evaluation(
    run: TrackedRun, predictions: SplitPredictions, classes: Sequence[str], *, caption: str, branches: bool = False
) -> dict[str, float]:
    """Log figures and the table of classes of an evaluation.

    Args:
        run: the run of the evaluation.
        predictions: predictions of the evaluated split.
        classes: names of the classes.
        caption: split, data set and seed, for the figures.
        branches: whether the modalities' predictions are those of branches that see each other.

    Returns:
        Expected calibration errors, 0 to 1: ``fused`` and by modality, as shown to the reader.
    """
    suffix = " branch" if branches else ""
    shown = {"fused": predictions.fused, **{f"{name}{suffix}": value for name, value in predictions.unimodal.items()}}
    labels = predictions.labels
    found = {name: reliability(logits, labels) for name, logits in shown.items()}
    if not has_several_classes(labels):  # a sample with two true classes is in no single row of a matrix
        counts = {name: confusion_counts(logits, labels) for name, logits in shown.items()}
        figure = confusion_matrices(counts, classes, title="True and predicted classes", caption=caption)
        run.log_figure(render(figure), names.CONFUSION_FIGURE)
    run.log_figure(render(reliability_diagram(found, caption=caption)), names.RELIABILITY_FIGURE)
    if len(predictions.unimodal) > 1:
        leading, *others = (f"{name}{suffix}" for name in predictions.unimodal)
        means, widths = class_gaps(modality_gap(predictions.unimodal, labels), labels, len(classes))
        other = others[0] if len(others) == 1 else "the best other"
        figure = gap_per_class(means, widths, classes, leading=leading, other=other, caption=caption)
        run.log_figure(render(figure), names.CLASS_GAP_FIGURE)
    run.log_table(class_table(predictions, classes), names.CLASS_TABLE)
    return {name: item.error for name, item in found.items()}


def confusion_counts(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Return ``(classes, classes)`` samples by true class (rows) and predicted class.

    Args:
        logits: ``(samples, classes)``.
        labels: ``(samples,)`` int64.
    """
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(dim=1)
    return pairs.bincount(minlength=classes**2).reshape(classes, classes).numpy()


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Return confidence and accuracy in ``bins`` equal bins of the largest probability, each open at its lower end."""
    confidence = class_probabilities(logits.double(), several_classes=has_several_classes(labels)).amax(dim=1)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    counts = index.bincount(minlength=bins).double()
    sums = [
        index.bincount(weights=item, minlength=bins) for item in (confidence, is_named_right(logits, labels).double())
    ]
    mean_confidence, accuracy = (item / counts for item in sums)  # 0 / 0 = NaN in empty bins
    return Reliability(mean_confidence.numpy(), accuracy.numpy(), counts.long().numpy())


def class_gaps(gaps: Tensor, labels: Tensor, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean gap of each class and half-width of its 95 % interval, ``(classes,)`` twice; NaN where samples are too few."""
    means, widths = np.full(classes, math.nan), np.full(classes, math.nan)
    for label, members in samples_by_class(labels).items():
        values = gaps[members].double()
        means[label] = float(values.mean())
        if len(values) > 1:
            widths[label] = CONFIDENCE * float(values.std()) / math.sqrt(len(values))
    return means, widths


def class_table(predictions: SplitPredictions, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per class that occurs: samples, accuracies, mean gap, and the class it is most often taken for.

    With several true classes per sample, a class has average precisions instead of accuracies, and is taken for no other.
    """
    labels = predictions.labels
    several = has_several_classes(labels)
    gaps = modality_gap(predictions.unimodal, labels) if len(predictions.unimodal) > 1 else None
    shown = {"fused": predictions.fused, **predictions.unimodal}
    precisions = {name: average_precisions(logits, labels) for name, logits in shown.items()} if several else {}
    confused = None if several else confusion_counts(predictions.fused, labels)
    rows = []
    for label, chosen in samples_by_class(labels).items():
        row: dict[str, Any] = {"class": classes[label], "samples": len(chosen)}
        for name, logits in shown.items():
            if several:
                row[f"average_precision_{name}"] = round(precisions[name][label], 4)
            else:
                row[f"accuracy_{name}"] = round(
                    float(is_named_right(logits[chosen], labels[chosen]).double().mean()), 4
                )
        if gaps is not None:
            row["gap_mean"] = round(float(gaps[chosen].mean()), 4)
            row["gap_mean_abs"] = round(float(gaps[chosen].abs().mean()), 4)
        if confused is not None:
            others = confused[label].copy()
            others[label] = 0
            wrong = int(others.argmax())
            row["taken_for"] = classes[wrong] if others[wrong] else ""
            row["taken_for_samples"] = int(others[wrong])
        rows.append(row)
    return rows
