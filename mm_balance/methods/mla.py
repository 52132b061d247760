"""MLA: modalities take turns through one shared head, whose gradient avoids what the turn before has used.

Source: Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024, arXiv 2311.10707;
Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation@ab6c184, main.py and utils/utils.py. Deviations: the projection
divides by a scalar (``rls_norm``), where the code has a slip of shapes (``projection=official``); the gate of the prediction is each
sample's own (``gate=batch``: the code's, where predictions depend on the batch; ``gate=fixed``: 0.55 / 0.45, or equal shares); the
mean feature is a constant, where the code lets its graph grow; an encoder out of turn does not move at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mm_balance.functional.projection import next_projection
from mm_balance.methods.base import Method, Step, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput, Output

OFFICIAL = "MLA@ab6c184"
FIXED_SHARES = {2: (0.55, 0.45), 3: (0.35, 0.25, 0.4)}


@dataclass(frozen=True)
class MlaOptions:
    """See the fields' help."""

    projection: str = option(
        "rls_norm", "how the head's gradient is corrected", choices=("rls_norm", "official", "rls", "none"),
        search=("rls_norm", "official", "none"),
    )  # fmt: skip
    gate: str = option(
        "entropy", "weights of the modalities in the prediction", choices=("entropy", "fixed", "batch"), source=OFFICIAL
    )


class Mla(Method):
    """Alternating unimodal adaptation."""

    name = "mla"
    title = "MLA"
    citation = "Zhang et al., CVPR 2024, arXiv 2311.10707; Cecile-hi/...-Alternating-Unimodal-Adaptation@ab6c184"
    Options = MlaOptions

    projection: Tensor
    turns: Tensor

    def head(self, fusion: str) -> str:
        return f"shared_{self.options.gate}"

    def prepare(self, model: MultimodalNetwork) -> None:
        width = next(iter(model.widths.values()))
        device = next(model.parameters()).device
        self.register_buffer("projection", torch.eye(width, device=device))
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))
        if len(self.modalities) in FIXED_SHARES:
            model.fusion.get_buffer("shares").copy_(torch.tensor(FIXED_SHARES[len(self.modalities)]))

    def update(self, model: MultimodalNetwork, batch: Batch, step: Step, clock: Clock) -> LossOutput:
        losses: dict[str, Tensor] = {}
        unimodal: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        weight = model.fusion.get_parameter("output.weight")
        for name in self.modalities:
            step.zero_grad()
            with step.autocast():
                encoded = model.encode(batch.inputs, (name,))
            features |= encoded
            unimodal[name] = model.fusion.alone(encoded[name].float(), name)
            loss = cross_entropy(unimodal[name], batch.labels)
            step.backward(loss)
            if step.finite():
                self._correct(weight, encoded[name].detach().float(), clock)
            step.step()
            losses[f"unimodal_{name}"] = loss.detach()
        return loss_output(Output(unimodal[name], unimodal, features), **losses)

    @torch.no_grad()
    def _correct(self, weight: nn.Parameter, features: Tensor, clock: Clock) -> None:
        # The very first turn of a run is free. The count stays on the CPU: nothing waits for the device.
        if int(self.turns) > 0 and self.options.projection != "none" and weight.grad is not None:
            decay = 0.1 ** (1 + clock.batch / clock.batches)
            self.projection.copy_(
                next_projection(self.projection, features.mean(dim=0), decay, self.options.projection)
            )
            weight.grad.copy_(weight.grad @ self.projection.T)
        self.turns += 1
