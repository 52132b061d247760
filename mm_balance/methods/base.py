"""The interface of a method: six seams, each with a default. Override the weakest that suffices.

The engine makes model and optimiser and lends them; a method owns only its own state (buffers), so that saving and
resuming come for free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.nn import functional

from mm_balance.types import Batch, Clock, Objective, Output, Plan, Refit


class Network(Protocol):
    """What a method may ask of a model (``mm_balance.models.MultimodalNetwork`` is one)."""

    modalities: tuple[str, ...]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Output: ...

    def encoder_parameters(self, modality: str) -> Iterator[nn.Parameter]: ...

    def head_parameters(self, modality: str) -> Iterator[nn.Parameter]: ...


class Step(Protocol):
    """One optimiser update, with mixed precision where it is on."""

    def zero_grad(self) -> None: ...

    def autocast(self) -> AbstractContextManager[Any]: ...

    def backward(self, loss: Tensor) -> None: ...

    def step(self) -> None: ...


@dataclass(frozen=True)
class NoOptions:
    """Options of a method that has none."""


class Method(nn.Module):
    """Joint training with the fused cross-entropy; every method derives from it.

    Class attributes:
        name: key in ``METHODS``.
        title: how tables and run descriptions call it.
        citation: where it comes from.
        Options: frozen dataclass of its options. Fields that are parameters of ``Config`` are taken from there.

    Args:
        options: an instance of ``Options``.
        modalities: their names; the first is the leading one of the gap.
        train_samples: size of the training split, for tables by sample index.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str] = ""
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__()
        self.options = options
        self.modalities = tuple(modalities)
        self.train_samples = train_samples

    def prepare(self, model: Network) -> None:
        """Called once, before the first update: add heads, keep a snapshot, load teachers."""

    def loss(self, model: Network, batch: Batch, clock: Clock) -> Objective:
        """The loss of a batch, one or more forward passes. Default: mean cross-entropy of the fused logits."""
        output = model(batch.inputs)
        total = functional.cross_entropy(output.fused.float(), batch.labels)
        return Objective(total, {"fusion": total.detach()}, output)

    def modulate(self, model: Network, objective: Objective) -> None:
        """Called after the backward pass: may edit gradients in place."""

    def update(self, model: Network, batch: Batch, step: Step, clock: Clock) -> Objective:
        """One update: zero, loss, backward, modulate, step. Override to replace the whole of it."""
        step.zero_grad()
        with step.autocast():
            objective = self.loss(model, batch, clock)
        step.backward(objective.total)
        self.modulate(model, objective)
        step.step()
        return objective

    def refresh(self, refit: Refit, clock: Clock) -> Plan:
        """Called at each survey of the training split, before the epochs that follow it. Read-only look."""
        return Plan()

    def predict(self, model: Network, batch: Batch) -> Output:
        """What the method predicts; ``softmax(output.fused)`` are its class probabilities."""
        return model(batch.inputs)

    def strength(self, clock: Clock) -> float:
        """The annealing coefficient of the epoch, for the record; 0 where the method has none."""
        return 0.0
