"""Predictions on a whole split in eval mode, and how well their gaps find planted corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mm_balance.data import BatchLoader, Split
from mm_balance.functional.contribution import subsets
from mm_balance.functional.gap import gap_from_probabilities
from mm_balance.functional.metrics import binary_auc
from mm_balance.methods import Method
from mm_balance.models import MultimodalNetwork
from mm_balance.types import GapFit, Output, SplitPredictions

EVALUATION_BATCH = 256


@torch.no_grad()
def predict_split(
    model: MultimodalNetwork,
    method: Method,
    split: Split,
    device: torch.device,
    *,
    features: bool = False,
    coalitions: bool = False,
) -> SplitPredictions:
    """Predict every sample of ``split`` in index order, in eval mode; results are float32 on the CPU.

    The model's training mode is restored afterwards; no random numbers are drawn.

    Args:
        features: also return features.
        coalitions: also predict from every subset of the modalities, with all other features set to zero.
    """
    was_training = model.training
    model.eval()
    batches = BatchLoader(split, EVALUATION_BATCH).ordered(device)
    parts = [_batch_tensors(method.predict(model, batch), model, features, coalitions) for batch in batches]
    model.train(was_training)
    joined = {name: torch.cat([part[name] for part in parts]).float().cpu() for name in parts[0]}
    return SplitPredictions(
        labels=split.labels,
        fused=joined["fused",],
        unimodal={name: joined["unimodal", name] for name in model.modalities},
        samples_digest=split.samples_digest,
        features={name: joined["features", name] for name in model.fusion.uses} if features else {},
        alone={key[1]: value for key, value in joined.items() if key[0] == "alone"},
    )


def _batch_tensors(output: Output, model: MultimodalNetwork, features: bool, coalitions: bool) -> dict[tuple, Tensor]:
    tensors: dict[tuple, Tensor] = {("fused",): output.fused}
    tensors |= {("unimodal", name): value for name, value in output.unimodal.items()}
    if features:
        tensors |= {("features", name): value for name, value in output.features.items()}
    for members in subsets(model.modalities) if coalitions else ():
        kept = {name: value if name in members else torch.zeros_like(value) for name, value in output.features.items()}
        tensors["alone", members] = model.fuse(kept).fused
    return tensors


def truth_metrics(fit: GapFit, corrupted: Sequence[str]) -> dict[str, float]:
    """Measure how well gap, posterior and loss detect deliberately corrupted samples.

    Args:
        fit: the refit on the training split.
        corrupted: per sample, the deliberately corrupted modality, or ``label``; ``""`` = clean.

    Returns:
        Areas under the ROC curve by name (``TRUTH_METRICS``, ``DOUBT_METRICS``), without those that have no positives. The signed
        score of a modality is how far it lags behind the best other one; its positives are the samples corrupted in it, all others
        are negatives. A method's doubts about a modality are scored alike, and averaged over its positives and over the clean samples.
    """
    planted = torch.tensor([bool(name) for name in corrupted])
    if not planted.any():
        return {}
    scores: Mapping[str, Tensor] = {
        "gap_abs": fit.gaps.abs(),
        "posterior": fit.posterior_imbalanced,
        "loss": -fit.fused_probability.clamp_min(1e-300).log(),
    }
    values = {f"truth/auc_{name}": binary_auc(score, planted) for name, score in scores.items()}
    for modality in fit.probabilities:
        of_modality = torch.tensor([name == modality for name in corrupted])
        if of_modality.any():
            lag = -gap_from_probabilities(fit.probabilities, leading=modality)
            values[f"truth/auc_sign_{modality}"] = binary_auc(lag, of_modality)
    for modality, doubt in fit.doubts.items():
        of_modality = torch.tensor([name == modality for name in corrupted])
        values[f"truth/doubt_clean_{modality}"] = float(doubt[~planted].double().mean())
        if of_modality.any():
            values[f"truth/auc_doubt_{modality}"] = binary_auc(doubt.double(), of_modality)
            values[f"truth/doubt_corrupted_{modality}"] = float(doubt[of_modality].double().mean())
    return values
