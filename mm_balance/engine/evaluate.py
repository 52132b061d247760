"""Numbers of a split: pairs of name and value; only the loop and evaluation write them."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import functional

from mm_balance.functional.contribution import shapley_values
from mm_balance.functional.gap import modality_gap
from mm_balance.functional.metrics import accuracy, macro_f1, mean_average_precision
from mm_balance.functional.probe import linear_probe
from mm_balance.types import SplitPredictions


def split_metrics(seen: SplitPredictions, prefix: str) -> Iterator[tuple[str, float]]:
    """The metrics of ``mm_balance.names.SPLIT_METRICS`` as ``prefix/name``, value."""
    yield f"{prefix}/loss", float(functional.cross_entropy(seen.fused, seen.labels))
    yield f"{prefix}/accuracy", accuracy(seen.fused, seen.labels)
    for modality, logits in seen.unimodal.items():
        yield f"{prefix}/accuracy_{modality}", accuracy(logits, seen.labels)
    if seen.alone:
        values = shapley_values({members: accuracy(logits, seen.labels) for members, logits in seen.alone.items()})
        for modality, value in values.items():
            yield f"{prefix}/shapley_{modality}", value
        yield f"{prefix}/imbalance_degree", max(values.values()) - min(values.values())
    yield f"{prefix}/macro_f1", macro_f1(seen.fused, seen.labels)
    yield f"{prefix}/mean_average_precision", mean_average_precision(seen.fused, seen.labels)
    gaps = modality_gap(seen.unimodal, seen.labels)
    yield f"{prefix}/gap_mean", float(gaps.mean())
    yield f"{prefix}/gap_mean_abs", float(gaps.abs().mean())


def probe_metrics(train: SplitPredictions, seen: SplitPredictions, prefix: str) -> Iterator[tuple[str, float]]:
    """How much a linear classifier finds in each frozen encoder (``mm_balance.names.PROBE_METRICS``).

    Args:
        train: a survey of the training split, with features.
        seen: one of the split to score, with features.
        prefix: its name.
    """
    scores = {
        modality: linear_probe(features, train.labels, seen.features[modality], seen.labels)
        for modality, features in train.features.items()
    }
    for modality, score in scores.items():
        yield f"{prefix}/probe_accuracy_{modality}", score
    if len(scores) > 1:
        first, *others = scores.values()
        yield f"{prefix}/probe_gap", first - max(others)
