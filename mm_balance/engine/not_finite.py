"""Losses that are not finite: found without waiting for the device after every batch, and explained by the samples of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mm_balance.data import Split
from mm_balance.errors import Diverged
from mm_balance.types import Batch

if TYPE_CHECKING:
    from mm_balance.engine.loop import Stage

SHOWN = 8
"""Samples named of a batch."""


def looks_at_once(device: torch.device) -> bool:
    """Whether looking at a number costs nothing, so that a loss is looked at after its batch, not after the epoch."""
    return device.type == "cpu"


class LossGuard:
    """Looks at the losses of an epoch: one that is not finite ends training, or its batch is left out (``on_nan``).

    Args:
        stage: the stage, whose optimizer step says which.
        epoch: epochs finished before, over both stages.
        batches: numbers of the batches that are still to come in the epoch.
        learning_rate: the epoch's, for the advice.
        say: prints a line.
        replay: number of a batch of the epoch -> the batch, once more.
    """

    def __init__(
        self,
        stage: Stage,
        epoch: int,
        batches: range,
        learning_rate: float,
        say: Callable[[str], object],
        *,
        replay: Callable[[int], Batch],
    ) -> None:
        self._stage, self._epoch, self._batches = stage, epoch, batches
        self._learning_rate, self._say, self._replay = learning_rate, say, replay
        self._next = batches.start
        self._buffers: dict[str, Tensor] = {}
        self._skipped = 0
        self._finite: list[Tensor] = []

    def before_update(self) -> None:
        """Keep what a batch that is left out would spoil: the running statistics of the network."""
        if self._stage.optimizer_step.skip_not_finite:
            self._buffers = {name: value.clone() for name, value in self._stage.model.named_buffers()}
            self._skipped = self._stage.optimizer_step.skipped

    def accept(self, batch: Batch, loss: Tensor) -> bool:
        """Return whether the next batch, with this scalar loss, counts; if not, what it did to running statistics is taken back.

        On CUDA, where looking would wait for the device, a batch counts until ``check``, unless such batches are left out.

        Raises:
            Diverged: the loss is not finite.
        """
        number, self._next = self._next, self._next + 1
        step = self._stage.optimizer_step
        if step.skip_not_finite:
            if step.skipped == self._skipped and bool(loss.isfinite()):
                return True
            with torch.no_grad():
                for name, value in self._stage.model.named_buffers():
                    value.copy_(self._buffers[name])
            self._say(f"mm-balance: warning: {self._found(number, batch)}; the batch is left out (on_nan=skip)")
            return False
        if not looks_at_once(self._stage.device):
            self._finite.append(loss.detach().isfinite())
        elif not bool(loss.isfinite()):
            raise self._diverged(number, batch)
        return True

    def check(self) -> None:
        """Look at the losses that have not been looked at. One host sync. Raises Diverged if one is not finite."""
        finite = torch.stack(self._finite).tolist() if self._finite else []
        first, self._finite = self._next - len(finite), []
        if not all(finite):
            number = first + finite.index(False)
            raise self._diverged(number, self._replay(number))

    def _found(self, number: int, batch: Batch) -> str:
        place = f"epoch {self._epoch + 1}, batch {number + 1} of {self._batches.stop}"
        return f"{place}: {explain(batch, self._stage.data.splits['train'])}"

    def _diverged(self, number: int, batch: Batch) -> Diverged:
        return Diverged(
            f"the training loss is no longer finite in {self._found(number, batch)}: lower learning_rate (now "
            f"{self._learning_rate:g}) or the loss weights; the last good state is in the checkpoint"
        )


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


def _listed(samples: Sequence[str]) -> str:
    return ", ".join(samples[:SHOWN]) + (f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else "")
