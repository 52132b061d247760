"""G-Blending: unimodal losses and the joint loss, weighted by generalization over squared overfitting.

Source: Wang et al., What Makes Training Multi-modal Classification Networks Hard?, CVPR 2020, arXiv 1905.12681. The authors' code
(facebookresearch/VMZ@4cc542d) has the weighted loss and example weights, **not their estimation**: that follows the paper from
memory, and BalanceBenchmark@4c1482f. Estimation trains a temporary copy of the network for each head and compares its losses on
train and on a held-out tenth of it. Deviations: losses are means over samples, before any training (BalanceBenchmark: sums of batch
means, after an epoch); gains below 0 count as 0, squared overfitting is at least 1e-6, and without any gain all weights are equal.
A copy's learning rate follows the stage's schedule over the epochs it is trained for. Warm-up runs are refused because they were
trained on the tenth that is held out here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mm_balance.functional.blending import blending_weights
from mm_balance.methods.base import Inspector, Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import HeadSpec, MultimodalNetwork, OwnHeads
from mm_balance.types import Batch, Clock, Cost, EpochPlan, LossOutput, SplitPredictions

JOINT = "joint"


@dataclass(frozen=True)
class GBlendingOptions:
    """Options of G-Blending."""

    horizon: int = option(10, "epochs per super-epoch and per copy that estimates its weights", minimum=1,
                          source="BalanceBenchmark@4c1482f", search=(2, 10, "log"))  # fmt: skip
    mode: str = option(
        "online",
        "estimate weights at each super-epoch, or once before training over all epochs",
        choices=("online", "offline"),
    )
    heads: str = option(
        "own",
        "classifiers for the unimodal losses: separate ones, or slices of the joint head",
        choices=("own", "shared"),
    )


class GBlending(Method):
    """Gradient blending."""

    name = "g_blending"
    title = "G-Blending"
    citation = "Wang et al., CVPR 2020, arXiv 1905.12681 (estimation of the weights not released)"
    Options = GBlendingOptions
    held_out = 0.1

    blend: Tensor

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(OwnHeads, {"joint": fusion}) if self.options.heads == "own" else super().choose_head(fusion)

    def cost(self) -> Cost:
        return Cost(
            extra="per super-epoch, as many epochs of M unimodal copies and of a joint one, and M + 2 prediction passes"
        )

    def prepare(self, model: MultimodalNetwork) -> None:
        heads = len(self.modalities) + 1
        self.register_buffer("blend", torch.full((heads,), 1 / heads, device=next(model.parameters()).device))

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        horizon = clock.stage_epochs if self.options.mode == "offline" else self.options.horizon
        if clock.stage_epoch % horizon:
            return EpochPlan()
        epochs = min(horizon, clock.stage_epochs - clock.stage_epoch)
        # How much each loss improves, on train and on held-out data, when a copy is trained with it alone.
        before, after = self._losses(inspector), {}
        for name in (*self.modalities, JOINT):
            after[name] = self._losses(inspector.train_copy(_loss_of(name), epochs))[name]
        weights = blending_weights(before, after)
        self.blend.copy_(torch.tensor(list(weights.values())))
        return EpochPlan(notes={f"method/weight_{name}": value for name, value in weights.items()})

    def _losses(self, inspector: Inspector) -> dict[str, tuple[float, float]]:
        held_out, train = (_mean_losses(inspector.predict_split(part)) for part in ("held_out", "train"))
        return {name: (held_out[name], train[name]) for name in held_out}

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        losses = [cross_entropy(output.unimodal[name], batch.labels) for name in self.modalities]
        losses.append(cross_entropy(output.fused, batch.labels))
        names = [*(f"unimodal_{name}" for name in self.modalities), "fusion"]
        return loss_output(output, **dict(zip(names, torch.stack(losses) * self.blend, strict=True)))


def _mean_losses(predictions: SplitPredictions) -> dict[str, float]:
    logits = {**predictions.unimodal, JOINT: predictions.fused}
    return {name: float(functional.cross_entropy(value, predictions.labels)) for name, value in logits.items()}


def _loss_of(name: str) -> Callable[[MultimodalNetwork, Batch], Tensor]:
    if name == JOINT:
        return lambda network, batch: cross_entropy(network(batch.inputs).fused, batch.labels)
    return lambda network, batch: cross_entropy(network.alone(batch.inputs, name), batch.labels)
