"""Interaction between encoder stages: multimodal transfer modules (MMTM).

Joze et al., MMTM: Multimodal Transfer Module for CNN Fusion, CVPR 2020, arXiv 1911.08670; used here as in
nyukat/greedy_multimodal_learning@a190e03: after the second, third and fourth stage, a joint layer that halves the concatenated
width. That code adds a running mean of each modality's gates, which replaces them while the modality is cut off from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError
from mm_balance.models.encoders import Encoder

FIRST_STAGE = 1
"""The first stage (from 0) that is followed by a transfer module."""


class Transfer(nn.Module):
    """Gates for the feature maps of each modality, computed from the averages of all modalities.

    Attributes:
        cut_off: the modality whose gates are replaced by their running mean; None = none.

    Args:
        widths: modality -> channels of its maps.
    """

    steps: Tensor

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        total = sum(widths.values())
        self.shared = nn.Linear(total, total // len(widths))
        self.own = nn.ModuleDict({name: nn.Linear(total // len(widths), width) for name, width in widths.items()})
        self.cut_off: str | None = None
        self.register_buffer("steps", torch.zeros(()))
        for name, width in widths.items():
            self.register_buffer(f"mean_{name}", torch.zeros(width))

    def gates(self, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the factors of the feature maps.

        In training, the running mean is updated with the gates of the batch, with equal weight for all batches so far. Batches that
        overflowed under float16 are skipped: they would corrupt the mean permanently.

        Args:
            averages: modality -> ``(batch, channels)``.

        Returns:
            modality -> ``(batch, channels)`` in (0, 1).
        """
        joint = torch.relu(self.shared(torch.cat([averages[name] for name in self.own], dim=1)))
        gates = {name: torch.sigmoid(layer(joint)) for name, layer in self.own.items()}
        if self.training:
            with torch.no_grad():
                fresh = {name: value.mean(dim=0) for name, value in gates.items()}
                finite = torch.cat(list(fresh.values())).isfinite().all()
                for name, value in fresh.items():
                    mean = self.get_buffer(f"mean_{name}")
                    mean.copy_(torch.where(finite, (value + mean * self.steps) / (self.steps + 1), mean))
                self.steps += finite
        if self.cut_off is not None:
            constant = self.get_buffer(f"mean_{self.cut_off}")
            gates[self.cut_off] = constant.expand_as(gates[self.cut_off])
        return gates


class Interaction(nn.Module):
    """Runs encoders side by side, with a transfer module after their second, third and fourth stage.

    Args:
        encoders: modality -> encoder; all of the same architecture.
    """

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__()
        stages = len(next(iter(encoders.values())).stage_widths)
        transfers = [
            Transfer({name: encoder.stage_widths[stage] for name, encoder in encoders.items()})
            for stage in range(FIRST_STAGE, stages)
        ]
        self.transfers: list[Transfer] = transfers
        self._registered = nn.ModuleList(transfers)

    def cut_off(self, modality: str | None) -> None:
        """Replace the gates of ``modality`` by their running means; None = use all gates."""
        for transfer in self.transfers:
            transfer.cut_off = modality

    def own_parameters(self, modality: str) -> list[nn.Parameter]:
        """Return the parameters through which other modalities influence ``modality``: its gates and the shared layers."""
        return [
            parameter
            for transfer in self.transfers
            for layer in (transfer.own[modality], transfer.shared)
            for parameter in layer.parameters()
        ]

    def forward(self, encoders: nn.ModuleDict, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the features of all modalities, ``(batch, width)`` each, from normalized encoder inputs."""
        batch = {name: len(value) for name, value in samples.items()}
        maps = {name: value.flatten(0, 1) if value.dim() == 5 else value for name, value in samples.items()}
        parts = {name: _parts(encoders[name]) for name in samples}
        for stage in range(len(self.transfers) + FIRST_STAGE):
            maps = {name: parts[name][stage](value) for name, value in maps.items()}
            if stage < FIRST_STAGE:
                continue
            averages = {name: _per_sample(value.mean(dim=(2, 3)), batch[name]) for name, value in maps.items()}
            gates = self.transfers[stage - FIRST_STAGE].gates(averages)
            for name, gate in gates.items():
                frames = len(maps[name]) // batch[name]
                maps[name] = maps[name] * gate.repeat_interleave(frames, dim=0)[:, :, None, None]
        return {name: _per_sample(parts[name][-1](value), batch[name]) for name, value in maps.items()}


def _parts(encoder: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    assert isinstance(encoder, Encoder)
    return encoder.parts()


def _per_sample(frames: Tensor, batch: int) -> Tensor:
    """``(batch * frames, width)`` -> average over frames, ``(batch, width)``."""
    return frames if len(frames) == batch else frames.unflatten(0, (batch, -1)).mean(dim=1)


def build_interaction(name: str, encoders: Mapping[str, nn.Module]) -> Interaction | None:
    """Build the interaction ``name``, ``none`` or ``mmtm``.

    Raises:
        UserError: any other name, or encoders without stages, or with different numbers of them.
    """
    if name == "none":
        return None
    if name != "mmtm":
        raise UserError(f"interaction={name} is not known; give none or mmtm")
    staged = {name: item for name, item in encoders.items() if isinstance(item, Encoder) and item.stage_widths}
    if len(staged) < len(encoders) or len({len(item.stage_widths) for item in staged.values()}) > 1:
        raise UserError(
            f"interaction={name} connects encoders between their stages, of which all need the same number; give resnet18 or "
            "resnet_narrow for every modality"
        )
    return Interaction(staged)
