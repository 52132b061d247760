"""Greedy: encoders joined by transfer modules; the branch that learns too fast from the others is cut off from them for a while.

Source: Wu et al., Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep Neural Networks, ICML 2022,
arXiv 2202.05306; nyukat/greedy_multimodal_learning@a190e03. Its settings are for ModelNet40; no audio-visual ones exist. Deviations:
each branch has the running mean of its own gates (the code feeds the second branch the first one's); running means move in training
only; with more than two modalities the fastest is compared with the mean of the others (ours). The decision reads one number
from the device at each step outside the mode.
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
    """See the fields' help."""

    threshold: float = option(0.01, "epsilon: difference of the speeds (log10) that counts", minimum=0.0, source=OFFICIAL,
                              search=(0.001, 0.3, "log"))  # fmt: skip
    steps: int = option(5, "Q: updates in the balancing mode", minimum=1, source=OFFICIAL)
    start_epoch: int = option(1, "epochs of the stage before it begins", minimum=0, source=OFFICIAL)


class Greedy(Method):
    """Balanced learning by conditional learning speed."""

    name = "greedy"
    title = "Greedy"
    citation = "Wu et al., ICML 2022, arXiv 2202.05306; nyukat/greedy_multimodal_learning@a190e03"
    Options = GreedyOptions
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
        model.interaction.cut_off(None)  # surveys and validation see the whole network
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
        for place, name in enumerate(self.modalities):
            self.main[place] += speed([*model.encoder_parameters(name), *model.head_parameters(name)])
            self.bypass[place] += speed(model.interaction.own_parameters(name))
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
    moved = [item for item in parameters if item.grad is not None]
    gradients = torch.stack([item.grad.square().sum() for item in moved if item.grad is not None]).sum()
    return gradients / torch.stack([item.square().sum() for item in moved]).sum()


def fastest_branch(main: Tensor, bypass: Tensor) -> tuple[int, float]:
    """Which branch learns most from the others relative to its own input, and by how much: ``s_m = log10(bypass_m / main_m)``.

    Args:
        main: ``(modalities,)`` accumulated speeds of encoders and classifiers.
        bypass: ``(modalities,)`` those of the transfers.

    Returns:
        Its place, and its lead over the mean of the others, >= 0.
    """
    speeds = (bypass / main).log10().tolist()
    place = max(range(len(speeds)), key=lambda number: speeds[number])
    others = [value for number, value in enumerate(speeds) if number != place]
    return place, speeds[place] - sum(others) / len(others)
