"""What a model must know to turn a media file into the numbers it was trained on; travels with the model as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mm_balance.config import InputConfig
from mm_balance.data import MultimodalData, Split
from mm_balance.data.augment import VisualTransform
from mm_balance.data.digits import CANVAS, CLIP, LOUDNESS
from mm_balance.data.digits import RATE as DIGITS_RATE
from mm_balance.data.recipe import Recipe, stored_recipe
from mm_balance.data.store import open_store
from mm_balance.input_kinds import INPUT_KINDS, SEQUENCE, SOUND, VECTOR
from mm_balance.types import InputSpec

FILES, DIGITS, ARRAYS = "files", "digits", "arrays"
"""How inputs are made: as the store makes them of files, as `digits` makes them, or not at all: only arrays can be given."""
CHUNK = 256

Range = tuple[float, float]


@dataclass(frozen=True)
class TrainingRange:
    """What the clean training samples were like: smallest and largest value of each property.

    Attributes:
        level: mean of a sample, in the network's normalized units (0 = mean of the training split, 1 = its standard deviation).
        spread: standard deviation within a sample, same units.
        seconds: length of the sounds before they were cut or extended; None = unknown, or no sounds.
        rate: their sampling rates, Hz; likewise.
    """

    level: Range
    spread: Range
    seconds: Range | None = None
    rate: Range | None = None


@dataclass(frozen=True)
class ModalityRecipe:
    """How the inputs of one modality are made.

    Attributes:
        kind: a key of ``INPUT_KINDS``.
        made: ``files``, ``digits`` or ``arrays``.
        dtype: type of the arrays that the network gets, ``float32`` or ``uint8``.
        shape: their shape, without the batch.
        decoding: with ``files``, how files are decoded: the recipe of the training data's store; None for arrays in memory.
        view: with ``files`` and images, how decoded frames become inputs in evaluation; else None.
        training: what the training samples were like.
    """

    kind: str
    made: str
    dtype: str
    shape: tuple[int, ...]
    decoding: Recipe | None
    view: VisualTransform | None
    training: TrainingRange

    def to_json(self) -> dict[str, Any]:
        """Convert to what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> ModalityRecipe:
        """The inverse of ``to_json``."""
        decoding, view, training = saved["decoding"], saved["view"], saved["training"]
        ranges: dict[str, Any] = {name: None if pair is None else tuple(pair) for name, pair in training.items()}
        return cls(
            **{
                **saved,
                "shape": tuple(saved["shape"]),
                "decoding": None if decoding is None else Recipe(**decoding),
                "view": None if view is None else VisualTransform(**view),
                "training": TrainingRange(**ranges),
            }
        )

    def text(self) -> str:
        """Say in one sentence what to give, and what is made of it."""
        array = f"array ({self.dtype}, {' x '.join(map(str, self.shape))})"
        if self.kind == VECTOR:
            return f"a file (.npy) with an array of {self.shape[0]} numbers, float or int; or such an array"
        if self.kind == SEQUENCE:
            return (
                f"a file (.npy) with an array of steps of {self.shape[1]} numbers, float or int, of which the first {self.shape[0]} "
                "are used (shorter ones are padded with steps of zeros); or such an array"
            )
        if self.made == ARRAYS:
            return f"only a prepared {array} can be given: the data set has no recipe for files"
        if self.made == DIGITS and self.kind == SOUND:
            return (
                f"a sound of at most {CLIP / DIGITS_RATE:g} s: mono, 8 kHz, centered in silence, loudness {LOUDNESS:g} (RMS), log-mel "
                f"spectrogram; or an {array}. Training sounds carried white noise, 0 to 10 dB louder than the speech"
            )
        if self.made == DIGITS:
            return f"a picture of {CANVAS} x {CANVAS} pixels, white on black, gray; or an {array}"
        assert self.decoding is not None
        recipe = self.decoding
        if self.view is None:
            per_sample = ", z-score of each sample" if recipe.per_sample else ""
            return (
                f"a sound (WAV, FLAC, OGG, MP3, or a video's): mono, {recipe.audio}, first {recipe.clip_seconds:g} s "
                f"(shorter ones: {recipe.audio_fit}), resampler {recipe.resampler}{per_sample}; or an {array}"
            )
        frames = f"{self.view.frames} frame(s), chosen as `{self.view.how}` does in evaluation"
        if recipe.frame_count > 1:
            frames += f" of up to {recipe.frame_count} taken at {recipe.frames_per_second:g} per second"
        stacked = ", stacked as channels" if self.view.stacked else ""
        return (
            f"a picture (PNG, JPEG), a folder of frames or a video: RGB, {frames}{stacked}, squeezed to {self.view.size} x "
            f"{self.view.size} pixels; or an {array}"
        )


def modality_recipes(data: MultimodalData, config: InputConfig | None) -> dict[str, ModalityRecipe]:
    """Return the recipe of every modality.

    Args:
        data: the data that the model was trained on.
        config: how its files became inputs; None = unknown, then the model takes arrays only.
    """
    train = data.splits["train"]
    if config is not None and data.folder is not None and train.rows is not None:
        return {name: _of_store(name, data, config) for name in data.specs}
    made = DIGITS if config is not None and config.recipe == "embedded" and data.name == "digits" else ARRAYS
    # A vector or sequence lies in a file as it is in memory.
    return {
        name: _of_memory(name, FILES if spec.kind in (VECTOR, SEQUENCE) else made, train, spec)
        for name, spec in data.specs.items()
    }


def _of_store(modality: str, data: MultimodalData, config: InputConfig) -> ModalityRecipe:
    train, spec = data.splits["train"], data.specs[modality]
    stored = train.inputs[modality]
    view = train.views[modality].transform if modality in train.views else None
    recipe = asdict(stored_recipe(config, has_video=True))
    if view is not None:
        # What lies in the store, whatever it was derived from: a set of single images has one frame per clip.
        recipe |= {"frame_count": stored.shape[1], "frame_edge": stored.shape[2]}
    dtype = str(stored.numpy().dtype)
    # The store has no moments of vectors and sequences.
    read = spec.kind in (VECTOR, SEQUENCE)
    training = _range_of_values(modality, train, spec) if read else _range_in_store(modality, data, spec)
    return ModalityRecipe(spec.kind, FILES, dtype, spec.shape, Recipe(**recipe), view, training)


def _range_in_store(modality: str, data: MultimodalData, spec: InputSpec) -> TrainingRange:
    """Return the range of the training clips from the store's table, which has the moments of each: no clip is read."""
    assert data.folder is not None
    columns = open_store(data.folder).columns
    rows = data.splits["train"].rows
    assert rows is not None
    lines = {row: line for line, row in enumerate(columns["row"].to_pylist())}
    taken = pa.array([lines[row] for row in rows[modality].unique().tolist()])
    facts = {
        name: columns[f"{modality}_{name}"].take(taken).to_pylist()
        for name in ("mean", "square", "seconds", "rate")
        if f"{modality}_{name}" in columns
    }
    mean, square = (np.array(facts[name]) for name in ("mean", "square"))
    # Frames stacked as channels repeat the statistics of three colors.
    center, scale = (np.array(values)[: mean.shape[1]] for values in (spec.mean, spec.std))
    normalized = (mean - center) / scale
    squares = (square - 2 * center * mean + center**2) / scale**2
    level = normalized.mean(1)
    spread = np.sqrt(np.maximum(squares.mean(1) - level**2, 0))
    of_sound = {name: _range(facts[name]) for name in ("seconds", "rate")} if spec.kind == SOUND else {}
    return TrainingRange(_range(level), _range(spread), **of_sound)


def _of_memory(modality: str, made: str, train: Split, spec: InputSpec) -> ModalityRecipe:
    dtype = str(train.inputs[modality].numpy().dtype)
    training = _range_of_values(modality, train, spec)
    return ModalityRecipe(spec.kind, made, dtype, spec.shape, None, None, training)


def _range_of_values(modality: str, train: Split, spec: InputSpec) -> TrainingRange:
    """Return the range of the training samples, of those that are not corrupted, by reading them."""
    clean = torch.tensor([name != modality for name in train.corrupted])
    index = clean.nonzero().squeeze(1) if clean.any() else torch.arange(len(train))
    parts = [levels(train.read_modality(modality, part, None), spec) for part in index.split(CHUNK)]
    level, spread = (torch.cat(column).tolist() for column in zip(*((part[0], part[1]) for part in parts), strict=True))
    return TrainingRange(_range(level), _range(spread))


def levels(values: Tensor, spec: InputSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is compared with the training samples.

    Args:
        values: ``(batch, *spec.shape)``, uint8 or floating point.
        spec: format of the modality.

    Returns:
        ``(batch,)`` each, in normalized units: mean; standard deviation; largest range of values within one channel of one frame
        (0 = each channel of each frame is constant). Of a vector, mean and so on are those of its features; of a sequence, those
        of its steps that are no padding, and the largest range is that within one feature.
    """
    scaled = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    if INPUT_KINDS[spec.kind].channels == -1:
        return _levels_of_features(scaled, spec)
    mean, std = (torch.tensor(item).view(-1, 1, 1) for item in (spec.mean, spec.std))
    normalized = (scaled - mean) / std
    flat = normalized.flatten(1)
    channels = normalized.flatten(-2)
    contrast = (channels.amax(-1) - channels.amin(-1)).flatten(1).amax(1)
    level = flat.mean(1)
    # From the moments: torch's own standard deviation takes ten times as long, on a whole training split as long as logging the model.
    spread = (flat.square().mean(1) - level.square()).clamp(min=0).sqrt()
    return level, spread, contrast


def _levels_of_features(values: Tensor, spec: InputSpec) -> tuple[Tensor, Tensor, Tensor]:
    """``levels`` of ``(batch, features)`` or ``(batch, steps, features)``."""
    normalized = (values - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    if spec.kind == VECTOR:
        # A vector of zeros is what is there where nothing was found.
        contrast = torch.where((values != 0).any(1), normalized.amax(1) - normalized.amin(1), 0.0)
        return normalized.mean(1), normalized.std(1, correction=0), contrast
    real = (values != 0).any(2, keepdim=True)
    count = (real.sum((1, 2)) * values.shape[2]).clamp(min=1)
    present = torch.where(real, normalized, 0.0)
    level = present.sum((1, 2)) / count
    spread = (present.square().sum((1, 2)) / count - level.square()).clamp(min=0).sqrt()
    high, low = (torch.where(real, normalized, edge) for edge in (-torch.inf, torch.inf))
    contrast = (high.amax(1) - low.amin(1)).amax(1).clamp(min=0)
    return level, spread, contrast


def _range(values: Any) -> Range:
    return float(min(values)), float(max(values))
