"""Greedy: encoders connected by transfer modules (MMTM); the fastest branch is temporarily isolated from them.

Source: Wu et al., Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep Neural Networks, ICML 2022,
arXiv 2202.05306; nyukat/greedy_multimodal_learning@a190e03. Its settings are for ModelNet40; there are none for audio-visual data.
Deviations: each branch uses the running mean of its own gates (the code feeds the second branch those of the first); running means
are updated in training only; with more than two modalities the fastest is compared with the mean of the others (ours). The decision
needs one host sync per step outside the balancing mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mm_balance.methods.base import Method, cross_entropy, loss_output
from mm_balance.methods.options import option
from mm_balance.models import HeadSpec, LateFusion, MultimodalNetwork
from mm_balance.types import Batch, Clock, LossOutput

OFFICIAL = "greedy_multimodal_learning@a190e03"


@dataclass(frozen=True)
class GreedyOptions:
    """Options of Greedy."""

    threshold: float = option(0.01, "epsilon: smallest difference in speed (log10) that counts", minimum=0.0, source=OFFICIAL,
                              search=(0.001, 0.3, "log"))  # fmt: skip
    steps: int = option(5, "Q: updates per balancing phase", minimum=1, source=OFFICIAL)
    start_epoch: int = option(1, "stage epochs before balancing starts", minimum=0, source=OFFICIAL)


class Greedy(Method):
    """Balanced learning by conditional learning speed."""

    name = "greedy"
    title = "Greedy"
    citation = "Wu et al., ICML 2022, arXiv 2202.05306; nyukat/greedy_multimodal_learning@a190e03"
    Options = GreedyOptions
    several_classes = True
    fusions = ("concat",)
    interaction = "mmtm"

    main: Tensor
    bypass: Tensor

    def __init__(self, options: Any, modalities: tuple[str, ...], train_samples: int) -> None:
        super().__init__(options, modalities, train_samples)
        self.register_buffer("main", torch.zeros(len(modalities)))
        self.register_buffer("bypass", torch.zeros(len(modalities)))
        self.cut_off: str | None = None
        self.remaining = 0

    def choose_head(self, fusion: str) -> HeadSpec:
        return HeadSpec(LateFusion, {"mean_of": "logits"})

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        assert model.interaction is not None
        model.interaction.cut_off(self.cut_off)
        output = model(batch.inputs)
        model.interaction.cut_off(None)  # predictions outside training use all connections
        losses = {f"unimodal_{name}": cross_entropy(value, batch.labels) for name, value in output.unimodal.items()}
        return loss_output(output, **losses)

    @torch.no_grad()
    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        if self.cut_off is not None:
            self.remaining -= 1
            if self.remaining == 0:
                self.cut_off = None
            return
        assert model.interaction is not None
        for index, name in enumerate(self.modalities):
            self.main[index] += speed([*model.encoder_parameters(name), *model.head_parameters(name)])
            self.bypass[index] += speed(model.interaction.own_parameters(name))
        if clock.stage_epoch >= self.options.start_epoch:
            fastest, lead = fastest_branch(self.main, self.bypass)
            if lead > self.options.threshold:
                self.cut_off, self.remaining = self.modalities[fastest], self.options.steps

    def get_extra_state(self) -> dict[str, Any]:
        return {"cut_off": self.cut_off or "", "remaining": self.remaining}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.cut_off, self.remaining = state["cut_off"] or None, state["remaining"]


def speed(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Sum of the squared gradients over the sum of the squared parameters."""
    trained = [item for item in parameters if item.grad is not None]
    gradients = torch.stack([item.grad.square().sum() for item in trained if item.grad is not None]).sum()
    return gradients / torch.stack([item.square().sum() for item in trained]).sum()


def fastest_branch(main: Tensor, bypass: Tensor) -> tuple[int, float]:
    """Find the branch that learns most from the others relative to its own input, by ``s_m = log10(bypass_m / main_m)``.

    Args:
        main: ``(modalities,)`` accumulated speeds of encoders and classifiers.
        bypass: ``(modalities,)`` accumulated speeds of the transfer modules.

    Returns:
        Its index, and its lead over the mean of the others, >= 0.
    """
    speeds = (bypass / main).log10().tolist()
    fastest = max(range(len(speeds)), key=lambda index: speeds[index])
    others = [value for index, value in enumerate(speeds) if index != fastest]
    return fastest, speeds[fastest] - sum(others) / len(others)
