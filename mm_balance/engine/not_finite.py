"""Losses that are not finite: found without waiting for the device after every batch, and explained by the samples of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mm_balance.data import Split
from mm_balance.types import Batch

SHOWN = 8
"""Samples named of a batch."""


def looks_at_once(device: torch.device) -> bool:
    """Whether looking at a number costs nothing, so that a loss is looked at after its batch, not after the epoch."""
    return device.type == "cpu"


class LossWatch:
    """The losses of an epoch's batches.

    Args:
        first_batch: number of the first batch that is added.
    """

    def __init__(self, first_batch: int) -> None:
        self._first_batch = first_batch
        self._finite: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Note the loss of the next batch, a scalar. No host sync."""
        self._finite.append(loss.detach().isfinite())

    def first_not_finite(self) -> int | None:
        """Return the number of the first batch since the last call whose loss is not finite; None = all are finite. One host sync."""
        finite = torch.stack(self._finite).tolist() if self._finite else []
        first, self._first_batch, self._finite = self._first_batch, self._first_batch + len(finite), []
        return None if all(finite) else first + finite.index(False)


def explain(batch: Batch, split: Split) -> str:
    """Return which samples of a batch are to blame: those whose inputs are not finite, else all."""
    for modality, values in batch.inputs.items():
        if values.is_floating_point():
            finite = values.isfinite().flatten(1).all(dim=1).tolist()
            broken = [split.samples[int(index)] for index, good in zip(batch.index, finite, strict=True) if not good]
            if broken:
                return f"the {modality} of sample {_listed(broken)} is not finite"
    return f"the loss is not finite (samples {_listed([split.samples[int(index)] for index in batch.index])})"


def first_not_finite(network: nn.Module) -> str | None:
    """Return the name of the first non-finite parameter or buffer, or None. One host sync."""
    weights = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
    return next((name for name, is_finite in zip(weights, finite, strict=True) if not is_finite), None)


class BufferGuard:
    """The running statistics of a network, to take back what a batch that is left out has done to them."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._saved: dict[str, Tensor] = {}

    def save(self) -> None:
        """Keep the present values."""
        self._saved = {name: value.clone() for name, value in self._network.named_buffers()}

    def restore(self) -> None:
        """Take the kept values back."""
        with torch.no_grad():
            for name, value in self._network.named_buffers():
                value.copy_(self._saved[name])


def _listed(samples: Sequence[str]) -> str:
    return ", ".join(samples[:SHOWN]) + (f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else "")
