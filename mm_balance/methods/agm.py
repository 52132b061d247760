"""AGM: one response per modality out of the fused logits (Shapley), and gradients scaled by how each moves against its own past.

Source: Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023, arXiv 2308.07686;
lihong2303/AGM_ICCV2023@5a65542, run/CREMAD_main.py and model/CREMAD_net.py. Deviations: after ``end_epoch`` nothing is scaled, where
the code keeps its last factors; the code's pass with all inputs blank is left out (it is not used). Blank = zeros where the
network expects its normalized input. ``responses=slices`` (ours, "fast") takes the unimodal logits for responses and scales the
encoders' gradients: no further passes. Adam cancels slowly varying factors: use SGD.
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
    """See the fields' help."""

    alpha: float = option(
        1.0, "strength (README for AV-MNIST: 2.5)", minimum=0.0, source=OFFICIAL, search=(0.1, 4.0, "log")
    )
    clamp: float = option(10.0, "largest exponent (7 with three modalities)", minimum=0.0, source=OFFICIAL)
    clip: float = option(
        1.0, "gradients are clipped to this norm once an element of the head's exceeds it; 0 = never (5 with three modalities)",
        minimum=0.0, source=OFFICIAL,
    )  # fmt: skip
    end_epoch: int = option(1000, "last epoch of the stage with scaling", minimum=0, source="ours: never ends")
    responses: str = option("shapley", "where responses come from", choices=("shapley", "slices"))


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
        # Of the update under way: the losses of the responses, and the factors that follow.
        self.losses = torch.zeros(len(modalities))
        self.factors = torch.ones(len(modalities))
        self.shares = shapley_shares(self.modalities)

    def cost(self) -> Cost:
        # Each encoder runs on its input and on a blank one, both in eval mode, beside the training pass.
        return Cost(forward=3.0, backward=3.0) if self.options.responses == "shapley" else Cost()

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        output = model(batch.inputs)
        value = cross_entropy(output.fused, batch.labels)
        active = clock.stage_epoch <= self.options.end_epoch
        if self.options.responses == "slices":
            self._rate({name: logits.detach() for name, logits in output.unimodal.items()}, batch.labels, active)
            return loss_output(output, fusion=value)
        worth = self._coalitions(model, batch) | {frozenset(self.modalities): output.fused.float()}
        responses = {
            name: torch.stack([share * worth[members].detach() for members, share in shares.items()]).sum(dim=0)
            for name, shares in self.shares.items()
        }
        self._rate(responses, batch.labels, active)
        # The responses sum to the fused logits, so the loss is theirs; only its way back is scaled, response by response.
        towards = (output.fused.detach().float().softmax(dim=1) - one_hot(batch.labels, output.fused)) / len(
            batch.labels
        )
        scaled = [(self._multiplier(members) * towards * logits).sum() for members, logits in worth.items()]
        surrogate = torch.stack(scaled).sum()
        return loss_output(output, fusion=value.detach() + surrogate - surrogate.detach())

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        if self.options.responses == "slices":
            for place, name in enumerate(self.modalities):
                for gradient in encoder_gradients(model, name):
                    gradient.mul_(self.factors[place])
        if self.options.clip > 0:
            clip_where_head_is_steep(model, self.options.clip)
        self.steps += 1
        self.running.copy_(self.running * (self.steps - 1) / self.steps + self.losses / self.steps)

    def _coalitions(self, model: MultimodalNetwork, batch: Batch) -> dict[Coalition, Tensor]:
        """Logits from every proper part of the modalities, the others blank: in eval mode, with gradient."""
        was_training = model.training
        model.eval()
        real = model.encode(batch.inputs, self.modalities)
        blank = model.encode(batch.inputs, self.modalities, blank=self.modalities)
        parts = {members for shares in self.shares.values() for members in shares} - {frozenset(self.modalities)}
        found = {}
        for members in sorted(parts, key=sorted):
            shown = {name: real[name] if name in members else blank[name] for name in self.modalities}
            found[members] = model.fuse(shown).fused.float()
        model.train(was_training)
        return found

    @torch.no_grad()
    def _rate(self, responses: Mapping[str, Tensor], labels: Tensor, active: bool) -> None:
        """The responses' losses, and new factors from them and from their running means, which ``modulate`` moves."""
        self.losses = torch.stack([
            -value.softmax(dim=1).gather(1, labels.unsqueeze(1)).clamp_min(PROBABILITY_FLOOR).log().mean()
            for value in responses.values()
        ])  # fmt: skip
        factors = agm_factors(self.losses, self.running, self.options.alpha, self.options.clamp)
        self.factors = factors if active else torch.ones_like(factors)

    def _multiplier(self, members: Coalition) -> Tensor:
        """What the gradient towards a coalition's logits is multiplied with."""
        weighed = [self.shares[name][members] * self.factors[place] for place, name in enumerate(self.modalities)]
        return torch.stack(weighed).sum()


def agm_factors(losses: Tensor, running: Tensor, alpha: float, clamp: float) -> Tensor:
    """``kappa_m = exp(alpha min(tau_m - r_m, clamp))``, where ``r_m = exp(M / (M - 1) (mean s - s_m))`` and tau likewise of the
    running means.

    Args:
        losses: ``(modalities,)`` s, minus log probability of the true class: low = strong.
        running: ``(modalities,)`` their running means before this step.
        alpha: strength.
        clamp: largest difference.
    """
    count = len(losses)

    def relative(values: Tensor) -> Tensor:
        return (count / (count - 1) * (values.mean() - values)).exp()

    return (alpha * (relative(running) - relative(losses)).clamp_max(clamp)).exp()


@torch.no_grad()
def clip_where_head_is_steep(model: MultimodalNetwork, threshold: float) -> None:
    """Clip the norm of all gradients to ``threshold`` where an element of the head's gradient exceeds it. No host sync."""
    head = [parameter.grad for parameter in model.fusion.parameters() if parameter.grad is not None]
    every = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    steepest = torch.stack([gradient.abs().max() for gradient in head]).max()
    norm = torch.stack([gradient.norm() for gradient in every]).norm()
    factor = torch.where(steepest > threshold, (threshold / (norm + 1e-6)).clamp_max(1.0), torch.ones_like(norm))
    for gradient in every:
        gradient.mul_(factor)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` -> ``(batch, classes)`` float32."""
    return functional.one_hot(labels, like.shape[1]).float()
