"""Diagnosing & Re-learning: pull an encoder back to its initial weights if its features separate train better than held-out data.

Source: Wei et al., Diagnosing and Re-learning for Balanced Multimodal Learning, ECCV 2024, arXiv 2407.09705;
GeWu-Lab/Diagnosing_Relearning_ECCV2024@025085e, code/ours.py. The held-out part is a tenth of train, never validation or test.
Deviations: training stays augmented (the official code turns augmentation off by the name of the split); k-means uses ten
restarts, scikit-learn's default at the time. ``reset_optimizer`` and ``blend_buffers`` are ours: the code keeps momentum and running
statistics. Warm-up runs are refused because they were trained on the tenth that is held out here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mm_balance.functional.diagnosis import feature_purity
from mm_balance.methods.base import Inspector, Method
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Clock, Cost, EpochPlan

OFFICIAL = "Diagnosing_Relearning_ECCV2024@025085e"


@dataclass(frozen=True)
class DiagnoseRelearnOptions:
    """Options of Diagnosing & Re-learning."""

    every: int = option(20, "epochs between diagnoses", minimum=1, source=OFFICIAL, search=(2, 20, "log"))
    times: int = option(3, "maximum number of diagnoses", minimum=0, source=OFFICIAL)
    strength: float = option(3.0, "lambda: pulled back by tanh(lambda gap)", minimum=0.0, source=OFFICIAL,
                             search=(1.0, 10.0, "log"))  # fmt: skip
    reset_optimizer: bool = option(False, "discard momentum at each diagnosis")
    blend_buffers: bool = option(False, "also pull running statistics back")


class DiagnoseRelearn(Method):
    """Soft re-initialization of encoders in proportion to their overfitting."""

    name = "diagnose_relearn"
    title = "Diagnosing & Re-learning"
    citation = "Wei et al., ECCV 2024, arXiv 2407.09705; GeWu-Lab/Diagnosing_Relearning_ECCV2024@025085e"
    Options = DiagnoseRelearnOptions
    held_out = 0.1

    def cost(self) -> Cost:
        return Cost(extra="at each diagnosis, one forward pass over train and held-out part, and 2 M k-means runs")

    def prepare(self, model: MultimodalNetwork) -> None:
        for name in self.modalities:
            for number, value in enumerate(self._weights(model, name)):
                self.register_buffer(f"initial_{name}_{number}", value.detach().clone())

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        last = clock.stage_epoch - 1
        if last <= 0 or last % self.options.every or last // self.options.every > self.options.times:
            return EpochPlan()
        train, held_out = inspector.predict_split("train"), inspector.predict_split("held_out")
        notes = {}
        for name in self.modalities:
            train_purity, held_out_purity = (
                feature_purity(part.features[name], part.labels, model.classes) for part in (train, held_out)
            )
            weight = relearn_weight(train_purity, held_out_purity, self.options.strength)
            notes[f"method/pulled_back_{name}"] = weight
            with torch.no_grad():
                for number, value in enumerate(self._weights(model, name)):
                    value.lerp_(self.get_buffer(f"initial_{name}_{number}"), weight)
        return EpochPlan(notes=notes, reset_optimizer=self.options.reset_optimizer)

    def _weights(self, model: MultimodalNetwork, name: str) -> list[torch.Tensor]:
        encoder = model.encoders[name]
        weights: list[torch.Tensor] = list(encoder.parameters())
        if self.options.blend_buffers:
            weights += [value for value in encoder.buffers() if value.is_floating_point()]
        return weights


def relearn_weight(train_purity: float, held_out_purity: float, strength: float) -> float:
    """``tanh(strength abs(purity on train - purity on held-out data))``, 0 to 1: how far an encoder is pulled back."""
    return math.tanh(strength * abs(train_purity - held_out_purity))
