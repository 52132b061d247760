"""The mixture fitted to the gaps of a whole split, and its metrics. Pure functions of predictions, whoever made them."""

from __future__ import annotations

import torch
from torch import Tensor

from mm_balance.functional.gap import check_labels, gap_from_probabilities, true_class_probability
from mm_balance.functional.mixture import fit_mixture
from mm_balance.types import GapFit, SplitPredictions

BLOCK_ELEMENTS = 2**22
"""Logits that are converted to float64 at a time, so that a thousand classes take no gigabytes."""


def exact_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the true-class probability of each sample of a split (Eq. 4) in float64, ``(samples,)``.

    Args:
        logits: ``(samples, classes)``, of any floating-point dtype.
        labels: ``(samples,)`` int64, 0 to classes - 1; or multi-hot, ``(samples, classes)``, see ``true_class_probability``.

    Raises:
        ValueError: labels that do not fit, see ``check_labels``.
    """
    check_labels(logits, labels)
    rows = max(BLOCK_ELEMENTS // max(logits.shape[-1], 1), 1)
    if len(logits) <= rows:
        return true_class_probability(logits.double(), labels)
    blocks = zip(logits.split(rows), labels.split(rows), strict=True)
    return torch.cat([true_class_probability(block.double(), part) for block, part in blocks])


def fit_gaps(
    predictions: SplitPredictions, epoch: int, kind: str, *, source: str = "refit", previous: GapFit | None = None
) -> GapFit:
    """Compute the gap of every sample (Eq. 6), fit the mixture (Eq. 8) and compute posteriors (Eq. 9).

    ``previous``: the last fit of the same split, whose mixture is one more start.
    """
    labels = predictions.labels
    return fit_gaps_from_probabilities(
        {name: exact_probabilities(logits, labels) for name, logits in predictions.unimodal.items()},
        exact_probabilities(predictions.fused, labels),
        labels,
        epoch,
        kind,
        samples_digest=predictions.samples_digest,
        source=source,
        previous=previous,
    )


def fit_gaps_from_probabilities(
    probabilities: dict[str, Tensor],
    fused_probability: Tensor,
    labels: Tensor,
    epoch: int,
    kind: str,
    *,
    samples_digest: str,
    source: str = "refit",
    previous: GapFit | None = None,
) -> GapFit:
    """Same as ``fit_gaps``, from true-class probabilities, each ``(samples,)``; fits another mixture kind to saved gaps."""
    gaps = gap_from_probabilities(probabilities)
    mixture = fit_mixture(gaps, kind=kind, also=None if previous is None else previous.mixture)
    return GapFit(
        epoch=epoch,
        samples_digest=samples_digest,
        labels=labels,
        probabilities=probabilities,
        fused_probability=fused_probability,
        gaps=gaps,
        mixture=mixture,
        posterior_imbalanced=mixture.posterior_imbalanced(gaps),
        source=source,
    )


def gap_fit_metrics(fit: GapFit) -> dict[str, float]:
    """Return the metrics of a refit by name (``mm_balance.names.REFIT_METRICS``)."""
    mixture = fit.mixture
    values = {
        f"gmm/{side}_{quantity}": getattr(getattr(mixture, side), quantity)
        for side in ("balanced", "imbalanced")
        for quantity in ("mean", "std", "weight")
    }
    values |= {
        "gmm/density_at_zero": mixture.density_at_zero,
        "gmm/log_likelihood": mixture.log_likelihood,
        "gmm/bic": mixture.bic,
        "gmm/separated": mixture.separated,
        "gmm/degenerate": mixture.degenerate,
        "gmm/posterior_monotone": mixture.posterior_monotone(fit.gaps),
        "gap/mean": fit.gaps.mean(),
        "gap/std": fit.gaps.std(),
        "gap/mean_abs": fit.gaps.abs().mean(),
        "gap/fraction_imbalanced": (fit.posterior_imbalanced > 0.5).double().mean(),
    }
    return {name: float(value) for name, value in values.items()}
