"""The paper's method: an adaptive loss weighted by each sample's posterior under the gap mixture.

Source: arXiv 2510.21797v1, Sec. 3.3. Eq. 6, 8 and 9 as in the paper. **Eq. 10 is reconstructed**: its display was lost,
so its form is a named choice (``loss_form``); see ``mm_balance.functional.adaptive``. No official code was found.

Deviations and additions: ``posterior_source=current``, ``gap_gradient=weaker``, the mixture kinds ``two_absolute`` and
``three`` and ``posterior_weighting=prior`` are ours. Under ``two_absolute`` the pull to the balanced mean acts on the
absolute gap, because the mixture models absolute gaps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mm_balance.config import GapMixtureOptions
from mm_balance.errors import UserError
from mm_balance.functional.adaptive import LossWeights, adaptive_loss, posterior_weights
from mm_balance.functional.gap import modality_gap
from mm_balance.functional.mixture import Mixture
from mm_balance.functional.schedules import anneal
from mm_balance.methods.base import Inspector, Method
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput, Output

FORMS = {
    "reconstructed": "Eq. 10 reconstructed from the paper's prose and ablations",
    "prose": "Eq. 10 reconstructed, wording of the prose",
    "abstract_v2": "Eq. 10 reconstructed, wording of the abstract of version 2",
}


class GapMixture(Method):
    """Adaptive training. Call ``refresh`` at least once before the first loss."""

    name = "gap_mixture"
    title = "adaptive loss"
    citation = "arXiv 2510.21797v1 (Eq. 10 reconstructed)"
    Options = GapMixtureOptions
    several_classes = True
    needs_warmup = True

    posterior_table: Tensor

    def __init__(self, options: GapMixtureOptions, modalities: Any, train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        self.register_buffer("posterior_table", torch.zeros(train_samples))
        self.mixture: Mixture | None = None
        self.weights = LossWeights(
            unimodal=options.unimodal_weight,
            gap=options.gap_weight,
            shift=options.shift_weight,
            hard=options.hard_weight,
            balanced_fusion=options.balanced_fusion_weight,
        )

    def cost(self) -> Cost:
        return Cost(extra="one forward pass over the training split at each refit")

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if inspector.gap_fit is None:
            raise UserError("gap_mixture needs the gap fit of a warm-up run: give warmup_run")
        self.mixture = inspector.gap_fit.mixture
        self.posterior_table.copy_(inspector.gap_fit.posterior_imbalanced)
        return EpochPlan()

    def headline(self) -> str:
        return f"{super().headline()}, form `{self.options.loss_form}`"

    def tags(self) -> dict[str, str]:
        return {"mm.loss_form": self.options.loss_form}

    def notes(self) -> list[str]:
        form = self.options.loss_form
        return [*super().notes(), f"Loss form `{form}`: {FORMS[form]}; not the authors' own equation."]

    def anneal_coefficient(self, clock: Clock) -> float:
        return anneal(self.options.anneal, clock.fraction, self.options.anneal_start, self.options.anneal_end)

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        if self.mixture is None:
            raise RuntimeError("gap_mixture has no mixture yet: call refresh before the first loss")
        output = model(batch.inputs)
        imbalanced, balanced = posterior_weights(
            self._posterior(output, batch), self.mixture.imbalanced.weight, self.options.posterior_weighting
        )
        result = adaptive_loss(
            output.fused,
            output.unimodal,
            batch.labels,
            posterior_imbalanced=imbalanced,
            posterior_balanced=balanced,
            balanced_mean=self.mixture.balanced.mean,
            weights=self.weights,
            anneal=self.anneal_coefficient(clock),
            form=self.options.loss_form,
            gap_gradient=self.options.gap_gradient,
            absolute=self.mixture.kind == "two_absolute",
        )
        return LossOutput(result.total, result.parts(), output)

    def _posterior(self, output: Output, batch: Batch) -> Tensor:
        if self.options.posterior_source == "refit":
            return self.posterior_table[batch.index]
        assert self.mixture is not None
        with torch.no_grad():
            return self.mixture.posterior_imbalanced(modality_gap(output.unimodal, batch.labels))

    def get_extra_state(self) -> str:
        return "" if self.mixture is None else self.mixture.to_json()

    def set_extra_state(self, state: str) -> None:
        self.mixture = Mixture.from_json(state) if state else None
