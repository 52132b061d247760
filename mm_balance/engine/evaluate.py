"""Evaluation metrics of a split, yielded as (name, value)."""

from __future__ import annotations

from collections.abc import Iterator

from mm_balance.functional.contribution import shapley_values
from mm_balance.functional.gap import modality_gap
from mm_balance.functional.labels import mean_cross_entropy
from mm_balance.functional.metrics import accuracy, macro_f1, mean_average_precision
from mm_balance.functional.probe import linear_probe
from mm_balance.types import SplitPredictions


def split_metrics(predictions: SplitPredictions, prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the metrics of ``mm_balance.names.SPLIT_METRICS`` as (``prefix/name``, value)."""
    labels = predictions.labels
    yield f"{prefix}/loss", float(mean_cross_entropy(predictions.fused, labels))
    yield f"{prefix}/accuracy", accuracy(predictions.fused, labels)
    for modality, logits in predictions.unimodal.items():
        yield f"{prefix}/accuracy_{modality}", accuracy(logits, labels)
    if predictions.alone:
        values = shapley_values({members: accuracy(logits, labels) for members, logits in predictions.alone.items()})
        for modality, value in values.items():
            yield f"{prefix}/shapley_{modality}", value
        yield f"{prefix}/imbalance_degree", max(values.values()) - min(values.values())
    yield f"{prefix}/macro_f1", macro_f1(predictions.fused, labels)
    yield f"{prefix}/mean_average_precision", mean_average_precision(predictions.fused, labels)
    gaps = modality_gap(predictions.unimodal, labels)
    yield f"{prefix}/gap_mean", float(gaps.mean())
    yield f"{prefix}/gap_std", float(gaps.std())
    yield f"{prefix}/gap_mean_abs", float(gaps.abs().mean())


def probe_metrics(train: SplitPredictions, predictions: SplitPredictions, prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the accuracy of a linear probe on each frozen encoder (``mm_balance.names.PROBE_METRICS``).

    Args:
        train: predictions on the training split, with features.
        predictions: predictions on the split to score, with features.
        prefix: name of that split.
    """
    scores = {
        modality: linear_probe(features, train.labels, predictions.features[modality], predictions.labels)
        for modality, features in train.features.items()
    }
    for modality, score in scores.items():
        yield f"{prefix}/probe_accuracy_{modality}", score
    if len(scores) > 1:
        first, *others = scores.values()
        yield f"{prefix}/probe_gap", first - max(others)
