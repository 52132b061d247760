"""The interface of a method: hooks, each with a default. Override the weakest that suffices.

The engine makes model and optimizer and lends them; a method owns only its own state (buffers and modules), so that saving
and resuming come for free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm_balance.errors import UserError
from mm_balance.models import FUSIONS, HeadSpec, MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, GapFit, LossOutput, Output, SplitPredictions


class Step(Protocol):
    """One optimizer update, with mixed precision where it is on.

    ``backward`` leaves true gradients. ``gradients`` gives those of one loss alone, zero where it does not depend on a
    parameter, and keeps the graph; under float16 they are scaled until, assigned, ``unscale`` puts them right. Between that and
    ``step``, ``finite`` says whether ``step`` will move the weights: what a method remembers of gradients, or of a forward pass, it
    takes from steps that do. It is False under float16 where gradients overflowed, and always True under other precisions.
    """

    def zero_grad(self) -> None: ...

    def autocast(self) -> AbstractContextManager[Any]: ...

    def backward(self, loss: Tensor) -> None: ...

    def gradients(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]: ...

    def unscale(self) -> None: ...

    def finite(self) -> bool: ...

    def step(self) -> None: ...


class Inspector(Protocol):
    """What a method may learn between two epochs. Nothing here touches validation or test data.

    Attributes:
        model: the network that is looked at.
        gap_fit: the latest survey of gaps with its mixture; None = there is none yet.
    """

    model: MultimodalNetwork
    gap_fit: GapFit | None

    def predict_split(self, part: str = "train") -> SplitPredictions:
        """One pass in eval mode over ``train`` or ``held_out`` (see ``Method.held_out``), with features."""

    def train_copy(
        self, loss: Callable[[MultimodalNetwork, Batch], Tensor], epochs: int, *, fresh: bool = False
    ) -> Inspector:
        """A look at a copy of the network that was trained on for so many epochs with ``loss`` alone.

        The network itself, its optimizer and the global random numbers stay as they are. The learning rate follows the stage's
        schedule, epoch by epoch.

        Args:
            loss: copy and batch -> scalar.
            epochs: how long.
            fresh: start from new weights, not from the network's. The rate is then that of a stage of its own, of so many epochs
                and from epoch 0; otherwise that of the stage's coming epochs (beyond its end, of its last one).
        """


class Method(nn.Module):
    """Joint training with the fused cross-entropy; every method derives from it.

    Class attributes:
        name: key in ``METHODS``.
        title: how tables and run descriptions call it.
        citation: where it comes from.
        Options: frozen dataclass of its options (``mm_balance.methods.options.option``).
        fusions: those that the user may choose; where the method brings a head in their place, most often ``concat`` alone.
        interaction: what joins the encoders, see ``MultimodalNetwork``.
        held_out: share of the training split that is kept back for ``Inspector.predict_split("held_out")``.
        needs_warmup: starts from a warm-up run, from whose refit it learns.
        most_modalities: how many it can handle; None = any number.

    Args:
        options: an instance of ``Options``.
        modalities: their names; the first is the leading one of the gap.
        train_samples: size of the training split, for tables by sample index.

    Raises:
        UserError: more modalities than it can handle.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str] = ""
    Options: ClassVar[type]
    fusions: ClassVar[tuple[str, ...]] = tuple(FUSIONS)
    interaction: ClassVar[str] = "none"
    held_out: ClassVar[float] = 0.0
    needs_warmup: ClassVar[bool] = False
    most_modalities: ClassVar[int | None] = None

    def __init__(self, options: Any, modalities: Sequence[str], train_samples: int) -> None:
        super().__init__()
        if self.most_modalities is not None and len(modalities) > self.most_modalities:
            raise UserError(
                f"method {self.name} is defined for {self.most_modalities} modalities, there are {len(modalities)} "
                f"({', '.join(modalities)})"
            )
        self.options = options
        self.modalities = tuple(modalities)
        self.train_samples = train_samples

    @final
    def head(self, fusion: str) -> HeadSpec:
        """What ``choose_head`` says. Raises UserError where the method cannot use ``fusion``."""
        if fusion not in self.fusions:
            raise UserError(
                f"method {self.name} brings a head of its own; leave fusion={' or fusion='.join(self.fusions)}"
            )
        return self.choose_head(fusion)

    def choose_head(self, fusion: str) -> HeadSpec:
        """The head that is trained where the user chose ``fusion``, which is one of ``fusions``. Default: that fusion."""
        return HeadSpec.of_fusion(fusion)

    @classmethod
    def sees_others(cls) -> bool:
        """Whether an encoder is given something of what the others see.

        Its unimodal accuracies and losses, gaps, posteriors and Shapley values are then not those of a modality alone.
        """
        return cls.interaction != "none"

    def cost(self) -> Cost:
        """What it costs with these options and modalities."""
        return Cost()

    def prepare(self, model: MultimodalNetwork) -> None:
        """Called once, before the first update, with the weights that training starts from: keep a snapshot, set up buffers."""

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        """Called before every epoch: look at the data, change weights, plan the epoch."""
        return EpochPlan()

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        """The loss of a batch, one or more forward passes. Default: mean cross-entropy of the fused logits."""
        output = model(batch.inputs)
        return loss_output(output, fusion=cross_entropy(output.fused, batch.labels))

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        """Called after the backward pass, where its gradients are finite (``Step.finite``): may edit them in place, and remember."""

    def update(self, model: MultimodalNetwork, batch: Batch, step: Step, clock: Clock) -> LossOutput:
        """One update: zero, loss, backward, modulate where the step counts, step. Override to replace the whole of it."""
        step.zero_grad()
        with step.autocast():
            loss_output = self.loss(model, batch, clock)
        step.backward(loss_output.total)
        if step.finite():
            self.modulate(model, loss_output, batch, clock)
        step.step()
        return loss_output

    def predict(self, model: MultimodalNetwork, batch: Batch) -> Output:
        """What the method predicts; ``softmax(output.fused)`` are its class probabilities.

        The logged model is the network alone: a method that predicts otherwise than joint training brings its own head.
        """
        return model(batch.inputs)

    def anneal_coefficient(self, clock: Clock) -> float:
        """The annealing coefficient of the epoch, for the record; 0 where the method has none."""
        return 0.0

    def headline(self) -> str:
        """How tables and run descriptions call training with it."""
        return self.title[:1].upper() + self.title[1:]

    def tags(self) -> dict[str, str]:
        """What its runs are found by beside its name: tag -> value (``mm_balance.names.TAGS``)."""
        return {"mm.loss_form": "none"}

    def notes(self) -> list[str]:
        """Sentences (markdown) that a reader of its numbers must know."""
        if not self.sees_others():
            return []
        return [
            "Accuracies, gaps and Shapley values under a modality's name are those of a **branch that sees the others** too: they are "
            "not of that modality alone, and do not compare with other methods'."
        ]


@dataclass(frozen=True)
class NoOptions:
    """Options of a method that has none."""


Method.Options = NoOptions


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of ``(batch, classes)`` logits, in float32 under autocast too."""
    return functional.cross_entropy(logits.float(), labels)


def loss_output(output: Output, **parts: Tensor) -> LossOutput:
    """The sum of named scalars as the loss of a batch."""
    total = torch.stack(list(parts.values())).sum()
    return LossOutput(total, {name: value.detach() for name, value in parts.items()}, output)


def true_scores(output: Output, labels: Tensor) -> dict[str, Tensor]:
    """Modality -> sum over the batch of its probability of the true class, a constant scalar: how strong it is now."""
    return {
        name: logits.detach().float().softmax(dim=1).gather(1, labels.unsqueeze(1)).sum()
        for name, logits in output.unimodal.items()
    }


def encoder_gradients(model: MultimodalNetwork, modality: str) -> Iterator[Tensor]:
    """The gradients of an encoder's parameters, to be edited in place; parameters without one are left out."""
    return (parameter.grad for parameter in model.encoder_parameters(modality) if parameter.grad is not None)
