"""OPM, and OPM with OGM: drop features of the stronger modality per sample in the forward pass.

Source: Wei et al., On-the-fly Modulation for Balanced Multimodal Learning, IEEE TPAMI 2024; GeWu-Lab/BML_TPAMI2024@4b3aa4f (its
classifier cannot be imported as released). Deviations: the undocumented factor 4 on the weaker gradient is omitted; with more than
two modalities each is compared with the mean of the others (ours). The code's defaults are for Kinetics-Sounds with AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mm_balance.functional.modulation import (
    discrepancy_ratios,
    drop_features,
    drop_probabilities,
    ogm_coefficients,
)
from mm_balance.methods.base import Method, cross_entropy, loss_output, true_scores
from mm_balance.methods.ogm import damp_encoders
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput

OFFICIAL = "BML_TPAMI2024@4b3aa4f"


@dataclass(frozen=True)
class OpmOptions:
    """Options of OPM."""

    drop_base: float = option(
        0.5, "q_base, drop probability of a modality that is barely ahead", minimum=0.0, maximum=1.0, source=OFFICIAL,
        search=(0.1, 0.9, "linear"),
    )  # fmt: skip
    drop_slope: float = option(
        0.5, "lambda, growth of the drop probability with the lead", minimum=0.0, source=OFFICIAL
    )
    execute: float = option(0.7, "p_exe, share of steps that drop features", minimum=0.0, maximum=1.0, source=OFFICIAL)
    start_epoch: int = option(6, "stage epochs before modulation starts", minimum=0, source=OFFICIAL)


@dataclass(frozen=True)
class OpmOgmOptions(OpmOptions):
    """Options of OPM & OGM: those of both methods."""

    alpha: float = option(0.8, "strength of OGM", minimum=0.0, source=OFFICIAL, search=(0.05, 2.0, "log"))
    end_epoch: int = option(60, "last stage epoch with OGM", minimum=0, source=OFFICIAL)
    noise: bool = option(True, "add OGM-GE's noise", source=OFFICIAL)


class Opm(Method):
    """On-the-fly prediction modulation."""

    name = "opm"
    title = "OPM"
    citation = "Wei et al., TPAMI 2024; GeWu-Lab/BML_TPAMI2024@4b3aa4f"
    Options = OpmOptions
    several_classes = True

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        features = model.encode(batch.inputs)
        output = model.fuse(features)  # scores always use the full features
        modulated = output
        # Drawn on the host on every device: no device sync, and the same steps drop features on every machine.
        if clock.stage_epoch >= self.options.start_epoch and float(torch.rand(())) >= 1 - self.options.execute:
            ratios = discrepancy_ratios(true_scores(output, batch.labels))
            probabilities = drop_probabilities(ratios, self.options.drop_base, self.options.drop_slope)
            draws = {name: torch.rand(len(value), device=value.device) for name, value in features.items()}
            modulated = model.fuse(drop_features(output.features, probabilities, draws))
        return loss_output(output, fusion=cross_entropy(modulated.fused, batch.labels))


class OpmOgm(Opm):
    """OPM in the forward pass and OGM in the backward pass."""

    name = "opm_ogm"
    title = "OPM & OGM"
    Options = OpmOgmOptions

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        if self.options.start_epoch <= clock.stage_epoch <= self.options.end_epoch:
            ratios = discrepancy_ratios(true_scores(loss_output.output, batch.labels))
            damp_encoders(model, ogm_coefficients(ratios, self.options.alpha), min_dim=4, noise=self.options.noise)
