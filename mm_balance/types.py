"""Data structures shared between packages: plain containers with little behavior.

Modalities are always a mapping from name to tensor, and its order is their order: the first one is the leading modality of the
gap. Shapes: ``batch`` = samples in a batch, ``classes`` = number of classes.
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
    """Input format of one modality for an encoder.

    Attributes:
        kind: key of ``INPUT_KINDS``: ``sound`` (a spectrogram), ``image``, ``video``, ``vector`` or ``sequence`` (of vectors). A
            video may also be called an image.
        shape: shape of one sample: ``(channels, height, width)``, of a sound ``(channels, frequencies, time steps)``, of a video
            ``(frames, channels, height, width)``, of a vector ``(features,)``, of a sequence ``(steps, features)``, in which steps
            that are all zero are padding.
        mean: mean of the training split, in the units of the stored values (0-1 for uint8 images): one per channel, or one per
            feature of a vector or sequence.
        std: per-channel standard deviation, same units.
    """

    kind: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class Batch:
    """A batch of samples.

    Attributes:
        inputs: modality -> ``(batch, *spec.shape)``, float32 or uint8 (the network scales uint8 to 0-1).
        labels: ``(batch,)`` int64; with several true classes per sample multi-hot, ``(batch, classes)`` bool.
        index: ``(batch,)`` int64, stable position of each sample in its split.
        present: modality -> ``(batch,)`` bool, whether the sample has that modality (see ``EpochPlan``); empty = all have all.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    index: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``; copies from pinned memory do not block."""
        return self._mapped(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """Return the batch in pinned memory, for asynchronous copies to a GPU."""
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
    """Output of the network for a batch.

    Attributes:
        fused: ``(batch, classes)`` logits of the fusion head.
        unimodal: modality -> ``(batch, classes)`` logits of that modality alone.
        features: modality -> ``(batch, width)`` encoder features.
    """

    fused: Tensor
    unimodal: dict[str, Tensor]
    features: dict[str, Tensor]


@dataclass
class LossOutput:
    """A loss, its named parts, and the output it was computed from.

    Attributes:
        total: scalar to differentiate.
        parts: name -> detached scalar, each the batch mean of one term as it enters ``total``.
        output: output of the forward pass.
    """

    total: Tensor
    parts: dict[str, Tensor]
    output: Output


@dataclass(frozen=True)
class Clock:
    """Training progress, passed to methods and schedules, which keep no count of their own.

    Attributes:
        epoch: epochs finished, counted over both stages (the step of every metric).
        stage_epoch: epochs finished in this stage.
        stage_epochs: length of this stage in epochs.
        batch: batches finished in the current epoch.
        batches: number of batches in the current epoch.
    """

    epoch: int
    stage_epoch: int
    stage_epochs: int
    batch: int = 0
    batches: int = 1

    @property
    def fraction(self) -> float:
        """Completed fraction of the stage: 0 in its first epoch, (n - 1) / n in the last of n epochs."""
        return self.stage_epoch / max(self.stage_epochs, 1)


@dataclass(repr=False)
class SplitPredictions:
    """Predictions for every sample of a split, in eval mode and without gradient (all on the CPU).

    Attributes:
        labels: ``(samples,)`` int64; with several true classes per sample multi-hot, ``(samples, classes)`` bool.
        fused: ``(samples, classes)`` logits.
        unimodal: modality -> ``(samples, classes)`` logits.
        samples_digest: identifies the samples and their order, see ``Split.samples_digest``; empty = no particular split.
        features: modality -> ``(samples, width)``, for the modalities that the network encodes.
        alone: frozenset of modalities -> ``(samples, classes)`` fused logits with the features of all others set to zero.
    """

    labels: Tensor
    fused: Tensor
    unimodal: dict[str, Tensor]
    samples_digest: str = ""
    features: dict[str, Tensor] = field(default_factory=dict)
    alone: dict[frozenset[str], Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        samples, classes = self.fused.shape
        return f"<predictions of {samples:,} samples, {classes} classes: .fused, .unimodal of {', '.join(self.unimodal)}, .labels>"


@dataclass
class GapFit:
    """Gaps of a split with the mixture fitted to them: of training for methods, of validation only for reports.

    Attributes:
        epoch: epochs finished at the time of the fit.
        samples_digest: identifies the samples and their order (``Split.samples_digest``); a fit applies to no others.
        labels: ``(samples,)`` int64; with several true classes per sample multi-hot, ``(samples, classes)`` bool.
        probabilities: modality -> ``(samples,)`` float64, true-class probability of that modality alone; with multi-hot labels the
            mean over the true classes.
        fused_probability: ``(samples,)`` float64, true-class probability of the fused prediction.
        gaps: ``(samples,)`` float64 in [-1, 1].
        mixture: the fitted mixture.
        posterior_imbalanced: ``(samples,)`` float64 in [0, 1].
        source: where the probabilities come from, a value of ``gap_source``.
        doubts: modality -> ``(samples,)`` in [0, 1], how far the method doubted that modality of a sample in the epoch before the
            fit; empty for methods that doubt none, and for validation.
    """

    epoch: int
    samples_digest: str
    labels: Tensor
    probabilities: dict[str, Tensor]
    fused_probability: Tensor
    gaps: Tensor
    mixture: Mixture
    posterior_imbalanced: Tensor
    source: str = "refit"
    doubts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Cost of a method, in passes of one sample through the encoders of all modalities.

    Joint training costs one forward and one backward pass per sample and step. A pass through the encoder of one of M
    modalities counts 1 / M. Validation and the predictions for refits are not counted: all methods have them.

    Attributes:
        forward: forward passes per sample and step.
        backward: backward passes per sample and step.
        refresh: forward passes per training sample and epoch outside the steps, if constant.
        extra: costs that the numbers leave out, as text.
    """

    forward: float = 1.0
    backward: float = 1.0
    refresh: float = 0.0
    extra: str = ""


@dataclass
class EpochPlan:
    """A method's plan for the next epoch: data, never a callback.

    Attributes:
        notes: values to log that the method computed, metric name -> value.
        samples: ``(n,)`` int64, training samples of the epoch, possibly repeated; None = each once.
        present: modality -> ``(n,)`` bool, whether each entry of ``samples`` has the modality; empty = all have all.
        reset_optimizer: start the epoch with a fresh optimizer state.
    """

    notes: Mapping[str, float] = field(default_factory=dict)
    samples: Tensor | None = None
    present: Mapping[str, Tensor] = field(default_factory=dict)
    reset_optimizer: bool = False
