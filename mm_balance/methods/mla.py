"""MLA: modalities alternate on one shared head, whose gradient is projected away from the previous modality's features.

Source: Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024, arXiv 2311.10707;
Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation@ab6c184, main.py and utils/utils.py. Deviations: the projection
divides by a scalar (``rls_norm``), where the code has a shape bug (``projection=official``); each sample has its own prediction
gate (``gate=batch``: the code's, where predictions depend on the batch; ``gate=fixed``: 0.55 / 0.45, or equal shares); the mean
feature is a constant, where the code lets its graph grow; only the encoder whose turn it is gets updated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mm_balance.functional.projection import next_projection
from mm_balance.methods.base import Method, Step, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import Fusion, HeadSpec, MultimodalNetwork
from mm_balance.models.heads import common_width
from mm_balance.types import Batch, Clock, LossOutput, Output

OFFICIAL = "MLA@ab6c184"
FIXED_SHARES = {2: [0.55, 0.45], 3: [0.35, 0.25, 0.4]}


@dataclass(frozen=True)
class MlaOptions:
    """Options of MLA."""

    projection: str = option(
        "rls_norm", "how the head's gradient is corrected", choices=("rls_norm", "official", "rls", "none"),
        search=("rls_norm", "official", "none"),
    )  # fmt: skip
    gate: str = option(
        "entropy", "weights of the modalities in the prediction", choices=("entropy", "fixed", "batch"), source=OFFICIAL
    )


class SharedHead(Fusion):
    """One linear classifier for all modalities; the prediction is a weighted sum of their logits (MLA).

    Args:
        gate: weights of the sum: ``entropy`` (softmax over modalities of minus each sample's entropy), ``fixed``
            (``shares``), or ``batch`` (the official code's: one entropy per batch, of a softmax over the batch).
        shares: fixed weight of each modality, in order; None = equal weights.
    """

    exact_unimodal = False
    shares: Tensor

    def __init__(
        self, widths: Mapping[str, int], classes: int, gate: str, shares: Sequence[float] | None = None
    ) -> None:
        super().__init__(widths, classes)
        self.gate = gate
        self.output = nn.Linear(common_width(widths), classes)
        self.register_buffer("shares", torch.tensor(shares or [1.0 / len(widths)] * len(widths)))

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gated sum of the unimodal logits, and the unimodal logits."""
        unimodal = {name: self.output(features[name]) for name in self.modalities}
        logits = torch.stack(list(unimodal.values()))
        return (self._weights(logits).unsqueeze(2) * logits).sum(dim=0), unimodal

    def _weights(self, logits: Tensor) -> Tensor:
        """``(modalities, batch, classes)`` -> ``(modalities, batch)``, sums to 1 over modalities."""
        if self.gate == "fixed":
            return self.shares.unsqueeze(1).expand(-1, logits.shape[1])
        if self.gate == "entropy":
            return entropy(logits, dim=2).neg().softmax(dim=0)
        batch_entropy = entropy(logits, dim=1).sum(dim=1, keepdim=True)
        return batch_entropy.neg().softmax(dim=0).expand(-1, logits.shape[1])

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """Return no parameters: the classifier is shared."""
        return iter(())


class Mla(Method):
    """Alternating unimodal adaptation."""

    name = "mla"
    title = "MLA"
    citation = "Zhang et al., CVPR 2024, arXiv 2311.10707; Cecile-hi/...-Alternating-Unimodal-Adaptation@ab6c184"
    Options = MlaOptions

    projection: Tensor
    turns: Tensor

    def choose_head(self, fusion: str) -> HeadSpec:
        shares = FIXED_SHARES.get(len(self.modalities))
        return HeadSpec(SharedHead, {"gate": self.options.gate, "shares": shares})

    def prepare(self, model: MultimodalNetwork) -> None:
        width = next(iter(model.widths.values()))
        device = next(model.parameters()).device
        self.register_buffer("projection", torch.eye(width, device=device))
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))

    def update(self, model: MultimodalNetwork, batch: Batch, step: Step, clock: Clock) -> LossOutput:
        losses: dict[str, Tensor] = {}
        unimodal: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        assert isinstance(model.fusion, SharedHead)
        weight = model.fusion.output.weight
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
    def _correct(self, weight: Tensor, features: Tensor, clock: Clock) -> None:
        # The first turn of a run is not projected. The count stays on the CPU to avoid a device sync.
        if int(self.turns) > 0 and self.options.projection != "none" and weight.grad is not None:
            decay = 0.1 ** (1 + clock.batch / clock.batches)
            self.projection.copy_(
                next_projection(self.projection, features.mean(dim=0), decay, self.options.projection)
            )
            weight.grad.copy_(weight.grad @ self.projection.T)
        self.turns += 1


def entropy(logits: Tensor, *, dim: int) -> Tensor:
    """Entropy of ``softmax(logits)`` along ``dim``, in nats."""
    logarithms = logits.log_softmax(dim=dim)
    return -(logarithms.exp() * logarithms).sum(dim=dim)
