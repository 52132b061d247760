"""What the layers hand to one another: plain containers, no behavior beyond small conveniences.

Modalities are always a mapping from name to tensor; their order is the order of the mapping (the first one is the
leading modality of the gap). Shapes: ``batch`` = samples in a batch, ``classes`` = number of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mm_balance.functional.mixture import Mixture


@dataclass(frozen=True)
class InputSpec:
    """What one modality looks like to an encoder.

    Attributes:
        kind: ``"sound"`` (a spectrogram, frequency x time) or ``"image"``.
        shape: shape of one sample, ``(channels, height, width)``, or ``(frames, channels, height, width)``.
        mean: per-channel mean of the training split, in the units of the stored values (0-1 for uint8 images).
        std: per-channel standard deviation, same units.
    """

    kind: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class Batch:
    """Samples that go through the network together.

    Attributes:
        inputs: modality -> ``(batch, *spec.shape)``, float32 or uint8 (uint8 is scaled to 0-1 by the network).
        labels: ``(batch,)`` int64.
        index: ``(batch,)`` int64, each sample's stable position in its split.
        present: modality -> ``(batch,)`` bool, whether the sample is shown with it (see ``EpochPlan``); empty = all are.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    index: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; the copies do not block where the source is pinned."""
        return self._mapped(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory from which a GPU can copy without waiting."""
        return self._mapped(lambda value: value.pin_memory())

    def _mapped(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            {name: move(value) for name, value in self.inputs.items()},
            move(self.labels),
            move(self.index),
            {name: move(value) for name, value in self.present.items()},
        )


@dataclass
class Output:
    """What the network says of a batch.

    Attributes:
        fused: ``(batch, classes)`` logits of all modalities together.
        unimodal: modality -> ``(batch, classes)`` logits of that modality alone.
        features: modality -> ``(batch, width)`` encoder features.
    """

    fused: Tensor
    unimodal: dict[str, Tensor]
    features: dict[str, Tensor]


@dataclass
class LossOutput:
    """A loss with its named parts, and the output it was computed from.

    Attributes:
        total: scalar to differentiate.
        parts: name -> detached scalar, each the batch mean of one term as it enters ``total``.
        output: the forward pass behind it.
    """

    total: Tensor
    parts: dict[str, Tensor]
    output: Output


@dataclass(frozen=True)
class Clock:
    """Where training stands. Time is passed in; nothing keeps a clock of its own.

    Attributes:
        epoch: epochs finished, counted over both stages (the step of every metric).
        stage_epoch: epochs finished in this stage.
        stage_epochs: length of this stage in epochs.
        batch: batches finished in the current epoch.
        batches: batches of the current epoch.
    """

    epoch: int
    stage_epoch: int
    stage_epochs: int
    batch: int = 0
    batches: int = 1

    @property
    def fraction(self) -> float:
        """Share of the stage done: 0 in its first epoch, (n - 1) / n in the last of n epochs."""
        return self.stage_epoch / max(self.stage_epochs, 1)


@dataclass
class SplitPredictions:
    """One look, in eval mode and without gradient, at every sample of a split (all on the CPU).

    Attributes:
        labels: ``(samples,)`` int64.
        fused: ``(samples, classes)`` logits.
        unimodal: modality -> ``(samples, classes)`` logits.
        samples_digest: which samples, in which order, see ``Split.samples_digest``; empty = of nobody's split.
        features: modality -> ``(samples, width)``, of the modalities that the network encodes.
        alone: frozenset of modalities -> ``(samples, classes)`` fused logits where the features of all others are zero.
    """

    labels: Tensor
    fused: Tensor
    unimodal: dict[str, Tensor]
    samples_digest: str = ""
    features: dict[str, Tensor] = field(default_factory=dict)
    alone: dict[frozenset[str], Tensor] = field(default_factory=dict)


@dataclass
class GapFit:
    """A survey of the training split with the mixture fitted to its gaps: what methods and plots read.

    Attributes:
        epoch: epochs finished when the survey was taken.
        samples_digest: which samples, in which order (``Split.samples_digest``): a refit is applied to no others.
        labels: ``(samples,)`` int64.
        probabilities: modality -> ``(samples,)`` float64, true-class probability of that modality alone.
        fused_probability: ``(samples,)`` float64, true-class probability of the fused prediction.
        gaps: ``(samples,)`` float64 in [-1, 1].
        mixture: the fit.
        posterior_imbalanced: ``(samples,)`` float64 in [0, 1].
    """

    epoch: int
    samples_digest: str
    labels: Tensor
    probabilities: dict[str, Tensor]
    fused_probability: Tensor
    gaps: Tensor
    mixture: Mixture
    posterior_imbalanced: Tensor


@dataclass(frozen=True)
class Cost:
    """What a method costs, in passes of one sample through the encoders of all modalities.

    Joint training is one pass forward and one backward per sample and step, and nothing beside it. A modality's own encoder
    is a share of 1 / M. Validation and the surveys that only measure are not counted: all methods have them.

    Attributes:
        forward: per sample and step.
        backward: per sample and step.
        refresh: forward passes per training sample and epoch outside the steps, where that is a constant.
        extra: what the numbers leave out, in words.
    """

    forward: float = 1.0
    backward: float = 1.0
    refresh: float = 0.0
    extra: str = ""


@dataclass
class EpochPlan:
    """What a method asks of the engine for the coming epoch. Data, never a callback.

    Attributes:
        notes: numbers worth logging that the method computed, metric name -> value.
        samples: ``(n,)`` int64, which training samples the epoch shows, with repetitions; None = each once.
        present: modality -> ``(n,)`` bool beside ``samples``: whether that showing has the modality; empty = all have all.
        reset_optimizer: start the epoch with a fresh optimizer state.
    """

    notes: Mapping[str, float] = field(default_factory=dict)
    samples: Tensor | None = None
    present: Mapping[str, Tensor] = field(default_factory=dict)
    reset_optimizer: bool = False
