"""UMT: joint training with distillation from unimodally trained encoders.

Source: Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023, arXiv 2305.01233. No official code was
found: based on a description of the paper and on BalanceBenchmark@4c1482f, whose weight is the default. The teachers are trained
before the first epoch, from fresh weights and with the stage's settings: their learning rate follows its whole schedule, from epoch 0
to the last of ``teacher_epochs``; the last state is used. Deviations: teachers predict in eval mode (BalanceBenchmark leaves
them in training mode, where batch statistics drift) and are not selected on test data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mm_balance.methods.base import Inspector, Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput


@dataclass(frozen=True)
class UmtOptions:
    """Options of UMT."""

    distillation: float = option(10.0, "weight of the distance to the teachers' features", minimum=0.0,
                                 source="BalanceBenchmark@4c1482f", search=(0.1, 50.0, "log"))  # fmt: skip
    teacher_epochs: int = option(0, "epochs per teacher; 0 = as many as the stage", minimum=0)
    reduction: str = option("mean", "reduction of squared differences over the feature vector", choices=("mean", "sum"))


class Umt(Method):
    """Distillation from unimodal teachers."""

    name = "umt"
    title = "UMT"
    citation = "Du et al., ICML 2023, arXiv 2305.01233 (no official code found)"
    Options = UmtOptions
    several_classes = True

    def cost(self) -> Cost:
        return Cost(forward=2.0, extra="training of one unimodal teacher per modality")

    def prepare(self, model: MultimodalNetwork) -> None:
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        if clock.stage_epoch == 0:
            epochs = self.options.teacher_epochs or clock.stage_epochs
            for name in self.modalities:
                teacher = inspector.train_copy(_unimodal_loss(name), epochs, fresh=True).model
                self.teacher.encoders[name].load_state_dict(teacher.encoders[name].state_dict())
        return EpochPlan()

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        with torch.no_grad():
            targets = self.teacher.encode(batch.inputs, self.modalities)
        parts = {
            f"distillation_{name}": self.options.distillation
            * feature_distance(output.features[name], targets[name], self.options.reduction)
            for name in self.modalities
        }
        return loss_output(output, fusion=cross_entropy(output.fused, batch.labels), **parts)


def feature_distance(features: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Batch mean of squared differences, reduced over the width by ``mean`` or ``sum``; inputs ``(batch, width)``."""
    squares = (features.float() - targets.float()).square()
    return squares.mean() if reduction == "mean" else squares.sum(dim=1).mean()


def _unimodal_loss(name: str) -> Callable[[MultimodalNetwork, Batch], Tensor]:
    return lambda network, batch: cross_entropy(network.alone(batch.inputs, name), batch.labels)
