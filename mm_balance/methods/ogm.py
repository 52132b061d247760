"""OGM and OGM-GE: scale down the encoder gradients of the stronger modality.

Source: Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022, arXiv 2203.15332;
GeWu-Lab/OGM-GE_CVPR2022@343dc1d, main.py. Deviations: at a tie neither modality is damped (``tie=official``: the first); the noise
has one standard deviation per tensor, as in the code, where the paper uses the covariance of the gradient; with more than two
modalities each is compared with the mean of the others (ours). Adam cancels slowly varying factors: use SGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mm_balance.functional.modulation import discrepancy_ratios, modulate_, normal_draws, ogm_coefficients
from mm_balance.methods.base import Method, encoder_gradients, true_scores
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput

MATRIX = 2
"""Dimensions of a matrix."""
OFFICIAL = "OGM-GE_CVPR2022@343dc1d"


@dataclass(frozen=True)
class OgmOptions:
    """Options of OGM and OGM-GE."""

    alpha: float = option(
        0.8, "strength", minimum=0.0, source=f"{OFFICIAL}, README: 0.8 CREMA-D, 0.1 VGGSound", search=(0.05, 2.0, "log")
    )
    start_epoch: int = option(0, "first stage epoch (from 0) with modulation", minimum=0, source=OFFICIAL)
    end_epoch: int = option(50, "last stage epoch with modulation", minimum=0, source=OFFICIAL)
    min_dim: int = option(
        4,
        "leave gradients with fewer dimensions unchanged: 4 = convolutions only, 2 if most weights are elsewhere (ours)",
        minimum=1,
        source=OFFICIAL,
    )
    tie: str = option("strict", "modality damped at equal scores: none, or the first", choices=("strict", "official"))


class Ogm(Method):
    """On-the-fly gradient modulation."""

    name = "ogm"
    title = "OGM"
    citation = "Peng et al., CVPR 2022, arXiv 2203.15332; GeWu-Lab/OGM-GE_CVPR2022@343dc1d"
    Options = OgmOptions
    several_classes = True
    noise: ClassVar[bool] = False

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        if self.options.start_epoch <= clock.stage_epoch <= self.options.end_epoch:
            ratios = discrepancy_ratios(true_scores(loss_output.output, batch.labels))
            damp_encoders(
                model,
                ogm_coefficients(ratios, self.options.alpha, first_loses_ties=self.options.tie == "official"),
                min_dim=self.options.min_dim,
                noise=self.noise,
            )


class OgmGe(Ogm):
    """OGM with noise at the scale of the gradient, which recovers the generalization that damping costs."""

    name = "ogm_ge"
    title = "OGM-GE"
    noise = True


def damp_encoders(model: MultimodalNetwork, coefficients: dict[str, Tensor], *, min_dim: int, noise: bool) -> None:
    """Scale encoder gradients in place and add noise (even where the coefficient is 1).

    The official code knows convolutional encoders only, and leaves gradients with fewer than ``min_dim`` dimensions as they are. An
    encoder with less than half of its weights in the others, as a transformer, would hardly be damped: of it, all matrices are.
    """
    chosen: list[tuple[Tensor, Tensor]] = []
    for modality, coefficient in coefficients.items():
        gradients = list(encoder_gradients(model, modality))
        large = sum(gradient.numel() for gradient in gradients if gradient.dim() >= min_dim)
        least = min_dim if 2 * large >= sum(gradient.numel() for gradient in gradients) else min(min_dim, MATRIX)
        chosen += [(gradient, coefficient) for gradient in gradients if gradient.dim() >= least]
    draws = normal_draws([gradient for gradient, _ in chosen]) if noise else [None] * len(chosen)
    for (gradient, coefficient), draw in zip(chosen, draws, strict=True):
        modulate_(gradient, coefficient, draw)
