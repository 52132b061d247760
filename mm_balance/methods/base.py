"""The method interface: hooks with defaults. Override the least powerful hook that suffices.

The engine owns the model and the optimizer and passes them in; a method owns only its own state (buffers and modules), so
saving and resuming need no extra code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import torch
from torch import Tensor, nn

from mm_balance.errors import UserError
from mm_balance.functional.gap import true_class_probability
from mm_balance.functional.labels import mean_cross_entropy
from mm_balance.models import FUSIONS, HeadSpec, MultimodalNetwork
from mm_balance.types import Batch, Clock, Cost, EpochPlan, GapFit, LossOutput, Output, SplitPredictions


class Step(Protocol):
    """One optimizer update, in mixed precision if enabled.

    ``backward`` leaves unscaled gradients on the parameters. ``gradients`` returns the gradients of a single loss (zero for
    parameters that it does not depend on) and keeps the graph; under float16 they are still scaled: assign them, then call
    ``unscale``. Between ``unscale`` and ``step``, ``finite`` tells whether ``step`` will update the weights: False if gradients
    overflowed under float16, always True under other precisions. A method may only remember gradients or activations of steps
    that update the weights.
    """

    def zero_grad(self) -> None: ...

    def autocast(self) -> AbstractContextManager[Any]: ...

    def backward(self, loss: Tensor) -> None: ...

    def gradients(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]: ...

    def unscale(self) -> None: ...

    def finite(self) -> bool: ...

    def step(self) -> None: ...


class Inspector(Protocol):
    """What a method can inspect between epochs. Validation and test data are never read.

    Attributes:
        model: the network under inspection.
        gap_fit: the latest gaps and the mixture fitted to them; None = not fitted yet.
    """

    model: MultimodalNetwork
    gap_fit: GapFit | None

    def predict_split(self, part: str = "train") -> SplitPredictions:
        """Predict ``train`` or ``held_out`` (see ``Method.held_out``) in eval mode; features are included."""

    def train_copy(
        self,
        loss: Callable[[MultimodalNetwork, Batch], Tensor],
        epochs: int,
        *,
        fresh: bool = False,
        samples: Tensor | None = None,
    ) -> Inspector:
        """Train a copy of the network with ``loss`` alone and return an inspector of that copy.

        The network, its optimizer and the global random state are unchanged. The learning rate follows the stage's schedule,
        epoch by epoch.

        Args:
            loss: (copy, batch) -> scalar.
            epochs: number of epochs to train.
            fresh: start from new weights instead of the network's. The learning rate then follows the schedule of a separate
                stage of ``epochs`` epochs; otherwise that of the stage's upcoming epochs (past its end, that of the last one).
            samples: ``(n,)`` int64, training samples to train on; None = all.
        """

    def cross_predict(
        self, loss: Callable[[MultimodalNetwork, Batch], Tensor], epochs: int, *, folds: int = 4
    ) -> SplitPredictions:
        """Predict every training sample by a copy of the network that never trained on it (cross-fitting), in eval mode.

        The training split is divided into stratified folds. For each one, a copy with new weights is trained on the other folds
        (``train_copy`` with ``fresh``), and predicts this one. What a network memorizes is in none of these predictions. Features
        are not included: those of different copies have nothing in common.

        It costs ``(folds - 1) * epochs`` epochs of training and one pass over the training split. Network, optimizer and random
        state are unchanged.

        Args:
            loss: (copy, batch) -> scalar.
            epochs: number of epochs to train each copy.
            folds: number of folds, 2 to the number of training samples.

        Raises:
            ValueError: another number of folds.
        """


class Method(nn.Module):
    """Joint training with the fused cross-entropy; base class of all methods.

    Class attributes:
        name: key in ``METHODS``.
        title: name in tables and run descriptions.
        citation: source.
        Options: frozen dataclass of the method's options (``mm_balance.methods.options.option``).
        fusions: values of ``fusion`` that the user may choose; usually only ``concat`` for a method with its own head.
        interaction: what connects the encoders, see ``MultimodalNetwork``.
        held_out: share of the training split reserved for ``Inspector.predict_split("held_out")``.
        needs_warmup: whether the method starts from a warm-up run and learns from its gap fit.
        most_modalities: maximum number of modalities; None = any number.
        several_classes: whether its equations carry over to several true classes per sample, ``batch.labels`` being multi-hot,
            ``(batch, classes)`` bool. Data of one class per sample fit every method.

    Args:
        options: an instance of ``Options``.
        modalities: modality names; the first one is the leading modality of the gap.
        train_samples: size of the training split, for tables indexed by sample.

    Raises:
        UserError: too many modalities for this method.
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
    several_classes: ClassVar[bool] = False

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
        """Return the head from ``choose_head``. Raises UserError if the method cannot use ``fusion``."""
        if fusion not in self.fusions:
            raise UserError(f"method {self.name} brings its own head; leave fusion={' or fusion='.join(self.fusions)}")
        return self.choose_head(fusion)

    def choose_head(self, fusion: str) -> HeadSpec:
        """Return the head to train when the user chose ``fusion``, one of ``fusions``. Default: that fusion."""
        return HeadSpec.of_fusion(fusion)

    @classmethod
    def sees_others(cls) -> bool:
        """Return whether an encoder receives information from the other modalities.

        If so, its unimodal accuracies, losses, gaps, posteriors and Shapley values do not describe a single modality.
        """
        return cls.interaction != "none"

    def cost(self) -> Cost:
        """Return the method's cost with these options and modalities."""
        return Cost()

    def prepare(self, model: MultimodalNetwork) -> None:
        """Prepare training: called once before the first update, with the initial weights (take a snapshot, create buffers)."""

    def refresh(self, model: MultimodalNetwork, inspector: Inspector, clock: Clock) -> EpochPlan:
        """Plan the epoch: called before each one; may inspect the training data and change weights."""
        return EpochPlan()

    def loss(self, model: MultimodalNetwork, batch: Batch, clock: Clock) -> LossOutput:
        """Compute the loss of a batch in one or more forward passes. Default: mean cross-entropy of the fused logits."""
        output = model(batch.inputs)
        return loss_output(output, fusion=cross_entropy(output.fused, batch.labels))

    def modulate(self, model: MultimodalNetwork, loss_output: LossOutput, batch: Batch, clock: Clock) -> None:
        """Edit gradients in place, update method state: called after the backward pass if gradients are finite (``Step.finite``)."""

    def update(self, model: MultimodalNetwork, batch: Batch, step: Step, clock: Clock) -> LossOutput:
        """Perform one update: zero_grad, loss, backward, modulate if gradients are finite, step. Override to replace all of it."""
        step.zero_grad()
        with step.autocast():
            loss_output = self.loss(model, batch, clock)
        if not isinstance(loss_output, LossOutput):
            raise UserError(
                f"method={self.name}: loss returned a {type(loss_output).__name__}; return loss_output(output, fusion=...) of "
                "mm_balance.methods.base"
            )
        step.backward(loss_output.total)
        if step.finite():
            self.modulate(model, loss_output, batch, clock)
        step.step()
        return loss_output

    def predict(self, model: MultimodalNetwork, batch: Batch) -> Output:
        """Predict a batch; ``softmax(output.fused)`` are the method's class probabilities (with several true classes: the sigmoid).

        Only the network is logged as a model, so a method whose prediction differs from joint training needs its own head.
        """
        return model(batch.inputs)

    def doubts(self) -> dict[str, Tensor]:
        """Return how far the method doubts a modality of a training sample: modality -> ``(train_samples,)`` in [0, 1].

        Empty if it doubts none. They are written to the table of every refit and scored where corruption was planted.
        """
        return {}

    def anneal_coefficient(self, clock: Clock) -> float:
        """Return the epoch's annealing coefficient, for logging; 0 if the method has none."""
        return 0.0

    def headline(self) -> str:
        """Return the name of this training in tables and run descriptions."""
        return self.title[:1].upper() + self.title[1:]

    def tags(self) -> dict[str, str]:
        """Return the tags of the method's runs besides its name: tag -> value (``mm_balance.names.TAGS``)."""
        return {"mm.loss_form": "none"}

    def notes(self) -> list[str]:
        """Return caveats (markdown sentences) for readers of its results."""
        if not self.sees_others():
            return []
        return [
            "Accuracies, gaps and Shapley values under a modality's name are those of a **branch that sees the others** too: they do "
            "not describe that modality alone and are not comparable with those of other methods."
        ]


@dataclass(frozen=True)
class NoOptions:
    """Empty options, for methods without any."""


Method.Options = NoOptions


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of ``(batch, classes)`` logits, in float32 even under autocast (see ``mean_cross_entropy``)."""
    return mean_cross_entropy(logits.float(), labels)


def loss_output(output: Output, **parts: Tensor) -> LossOutput:
    """Sum named scalars to the loss of a batch."""
    total = torch.stack(list(parts.values())).sum()
    return LossOutput(total, {name: value.detach() for name, value in parts.items()}, output)


def true_scores(output: Output, labels: Tensor) -> dict[str, Tensor]:
    """Modality -> true-class probability summed over the batch, a detached scalar: its current strength."""
    return {
        name: true_class_probability(logits.detach().float(), labels).sum() for name, logits in output.unimodal.items()
    }


def encoder_gradients(model: MultimodalNetwork, modality: str) -> Iterator[Tensor]:
    """Yield the gradients of an encoder's parameters for in-place editing; parameters without a gradient are skipped."""
    return (parameter.grad for parameter in model.encoder_parameters(modality) if parameter.grad is not None)
