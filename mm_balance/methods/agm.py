"""AGM: split fused logits into one response per modality (Shapley); scale gradients by each response's change from its running mean.

Source: Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023, arXiv 2308.07686;
lihong2303/AGM_ICCV2023@5a65542, run/CREMAD_main.py and model/CREMAD_net.py. Deviations: after ``end_epoch`` nothing is scaled (the
code keeps its last factors); the code's pass with all inputs blank is omitted because its result is unused. A blank input is zeros
in place of the normalized input. ``responses=slices`` (ours, "fast") uses the unimodal logits as responses and scales the
encoders' gradients, with no extra passes. Adam cancels slowly varying factors: use SGD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mm_balance.functional.contribution import Coalition, shapley_shares
from mm_balance.methods.base import Method, cross_entropy, encoder_gradients, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, LossOutput

OFFICIAL = "AGM_ICCV2023@5a65542"
PROBABILITY_FLOOR = 1e-8


@dataclass(frozen=True)
class AgmOptions:
    """Options of AGM."""

    alpha: float = option(
        1.0, "strength (README for AV-MNIST: 2.5)", minimum=0.0, source=OFFICIAL, search=(0.1, 4.0, "log")
    )
    clamp: float = option(10.0, "largest exponent (7 with three modalities)", minimum=0.0, source=OFFICIAL)
    clip: float = option(
        1.0, "clip gradients to this norm if any entry of the head's gradient exceeds it; 0 = never (5 with three modalities)",
        minimum=0.0, source=OFFICIAL,
    )  # fmt: skip
    end_epoch: int = option(1000, "last stage epoch with scaling", minimum=0, source="ours: never ends")
    responses: str = option("shapley", "how responses are computed", choices=("shapley", "slices"))


class Agm(Method):
    """Adaptive gradient modulation."""

    name = "agm"
    title = "AGM"
    citation = "Li et al., ICCV 2023, arXiv 2308.07686; lihong2303/AGM_ICCV2023@5a65542"
    Options = AgmOptions

    running: Tensor
    steps: Tensor

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        self.register_buffer("running", torch.zeros(len(modalities)))
        self.register_buffer("steps", torch.zeros(()))
        # Of the current update: the losses of the responses and the resulting factors.
        self.losses = torch.zeros(len(modalities))
        self.factors = torch.ones(len(modalities))
        self.shares = shapley_shares(self.modalities)

    def cost(self) -> Cost:
        # Besides the training pass, each encoder runs on its input and on a blank one, both in eval mode.
        return Cost(forward=3.0, backward=3.0) if self.options.responses == "shapley" else Cost()

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        value = cross_entropy(output.fused, batch.labels)
        active = clock.stage_epoch <= self.options.end_epoch
        if self.options.responses == "slices":
            unimodal = {name: logits.detach() for name, logits in output.unimodal.items()}
            self._update_factors(unimodal, batch.labels, active)
            return loss_output(output, fusion=value)
        coalitions = self._coalitions(model, batch) | {frozenset(self.modalities): output.fused.float()}
        responses = {
            name: torch.stack([share * coalitions[members].detach() for members, share in shares.items()]).sum(dim=0)
            for name, shares in self.shares.items()
        }
        self._update_factors(responses, batch.labels, active)
        # The responses sum to the fused logits, so the loss value is unchanged; only its gradient is scaled, per response.
        logit_gradient = (output.fused.detach().float().softmax(dim=1) - one_hot(batch.labels, output.fused)) / len(
            batch.labels
        )
        scaled = [(self._multiplier(members) * logit_gradient * logits).sum() for members, logits in coalitions.items()]
        surrogate = torch.stack(scaled).sum()
        return loss_output(output, fusion=value.detach() + surrogate - surrogate.detach())

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        if self.options.responses == "slices":
            for index, name in enumerate(self.modalities):
                for gradient in encoder_gradients(model, name):
                    gradient.mul_(self.factors[index])
        if self.options.clip > 0:
            clip_if_head_is_steep(model, self.options.clip)
        self.steps += 1
        self.running.copy_(self.running * (self.steps - 1) / self.steps + self.losses / self.steps)

    def _coalitions(self, model: MultimodalNetwork, batch: Batch) -> dict[Coalition, Tensor]:
        """Return the logits of every proper subset of the modalities, the others blank; in eval mode, with gradient."""
        was_training = model.training
        model.eval()
        real = model.encode(batch.inputs, self.modalities)
        blank = model.encode(batch.inputs, self.modalities, blank=self.modalities)
        subsets = {members for shares in self.shares.values() for members in shares} - {frozenset(self.modalities)}
        coalitions = {}
        for members in sorted(subsets, key=sorted):
            features = {name: real[name] if name in members else blank[name] for name in self.modalities}
            coalitions[members] = model.fuse(features).fused.float()
        model.train(was_training)
        return coalitions

    @torch.no_grad()
    def _update_factors(self, responses: Mapping[str, Tensor], labels: Tensor, active: bool) -> None:
        """Set losses and factors from the responses and the running means, which ``modulate`` updates."""
        self.losses = torch.stack([
            -value.softmax(dim=1).gather(1, labels.unsqueeze(1)).clamp_min(PROBABILITY_FLOOR).log().mean()
            for value in responses.values()
        ])  # fmt: skip
        factors = agm_factors(self.losses, self.running, self.options.alpha, self.options.clamp)
        self.factors = factors if active else torch.ones_like(factors)

    def _multiplier(self, members: Coalition) -> Tensor:
        """Return the factor of the gradient with respect to a coalition's logits."""
        weighted = [self.shares[name][members] * self.factors[index] for index, name in enumerate(self.modalities)]
        return torch.stack(weighted).sum()


def agm_factors(losses: Tensor, running: Tensor, alpha: float, clamp: float) -> Tensor:
    """``kappa_m = exp(alpha min(tau_m - r_m, clamp))`` with ``r_m = exp(M / (M - 1) (mean s - s_m))``, and tau the same of the
    running means.

    Args:
        losses: ``(modalities,)`` s, negative log probability of the true class: low = strong.
        running: ``(modalities,)`` their running means before this step.
        alpha: strength.
        clamp: largest difference.
    """
    count = len(losses)

    def relative(values: Tensor) -> Tensor:
        return (count / (count - 1) * (values.mean() - values)).exp()

    return (alpha * (relative(running) - relative(losses)).clamp_max(clamp)).exp()


@torch.no_grad()
def clip_if_head_is_steep(model: MultimodalNetwork, threshold: float) -> None:
    """Clip the norm of all gradients to ``threshold`` if any entry of the head's gradient exceeds it. No host sync."""
    head = [parameter.grad for parameter in model.fusion.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    largest = torch.stack([gradient.abs().max() for gradient in head]).max()
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = torch.where(largest > threshold, (threshold / (norm + 1e-6)).clamp_max(1.0), torch.ones_like(norm))
    for gradient in gradients:
        gradient.mul_(factor)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` -> ``(batch, classes)`` float32."""
    return functional.one_hot(labels, like.shape[1]).float()
