"""Splits of decoded data, and batch loading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm_balance.data.augment import VisualTransform, choose_frames
from mm_balance.functional.labels import has_several_classes, label_names, random_share, samples_by_class
from mm_balance.input_kinds import SEQUENCE
from mm_balance.types import Batch, InputSpec

STATISTICS_CHUNK = 64
SMALLEST_STD = 1e-6
"""Of normalization, in the units of the values."""
READ_AHEAD = 3
"""Batches prefetched from a store during the current training step."""


@dataclass
class FrameView:
    """How the stored frames of a split become network inputs.

    Attributes:
        transform: frame selection and augmentation.
        counts: ``(samples,)`` int64, stored frames per clip.
        aspect: ``(samples,)`` float32, width / height of the original images.
    """

    transform: VisualTransform
    counts: Tensor
    aspect: Tensor

    def at(self, index: Tensor) -> FrameView:
        """Return the view of the samples at ``index``."""
        return FrameView(self.transform, self.counts[index], self.aspect[index])

    def choose(self, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """Choose the frames of the samples at ``index`` (see ``choose_frames``): ``(batch, frames)`` int64."""
        return choose_frames(self.counts[index], self.transform.frames, self.transform.how, generator)


@dataclass
class Replacement:
    """Stored values that stand in for those of some samples of a split: blank or noisy clips.

    Attributes:
        values: ``(clips, ...)``, like the rows of the modality's stored array.
        which: ``(samples,)`` int64, row of ``values`` that a sample gets instead of its own; -1 = it keeps its own.
    """

    values: Tensor
    which: Tensor

    def at(self, index: Tensor) -> Replacement:
        """Return the replacement of the samples at ``index``."""
        return Replacement(self.values, self.which[index])


@dataclass
class Split:
    """One split of a data set, on the CPU.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        inputs: modality -> decoded values, float32 or uint8, ``(samples, *spec.shape)``. If ``rows`` is given: the
            memory-mapped arrays of a store, ``(rows, frames, edge, edge, 3)`` for modalities with a view.
        labels: ``(samples,)`` int64; with several true classes per sample multi-hot, ``(samples, classes)`` bool.
        samples: stable sample ids.
        corrupted: per sample, the deliberately corrupted modality, or ``label``; ``""`` = clean or unknown.
        corruption_kind: per sample, the kind of corruption; ``""`` = clean or unknown.
        rows: modality -> ``(samples,)`` int64, row of each sample in its array; None = in order.
        views: modality -> view of its stored frames. Modalities without one are used as stored.
        replacements: modality -> clips that stand in for others; modalities without one are read from ``inputs`` alone.
    """

    name: str
    inputs: dict[str, Tensor]
    labels: Tensor
    samples: list[str]
    corrupted: list[str]
    corruption_kind: list[str] = field(default_factory=list)
    rows: dict[str, Tensor] | None = None
    views: dict[str, FrameView] = field(default_factory=dict)
    replacements: dict[str, Replacement] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def samples_digest(self) -> str:
        """SHA-256 of the ordered sample ids, in hex: identifies the split that a table indexed by sample belongs to."""
        return hashlib.sha256(json.dumps(self.samples).encode()).hexdigest()

    def subset(self, index: Tensor) -> Split:
        """Return the samples at ``index`` (int64 positions), in that order."""
        positions = index.tolist()
        return Split(
            self.name,
            {name: value[index] for name, value in self.inputs.items()} if self.rows is None else self.inputs,
            self.labels[index],
            [self.samples[position] for position in positions],
            [self.corrupted[position] for position in positions],
            [self.corruption_kind[position] for position in positions] if self.corruption_kind else [],
            None if self.rows is None else {name: rows[index] for name, rows in self.rows.items()},
            {name: view.at(index) for name, view in self.views.items()},
            {name: replacement.at(index) for name, replacement in self.replacements.items()},
        )

    def stored(self, position: int) -> dict[str, Tensor]:
        """Return the stored values of one sample, with all its frames."""
        values = {}
        for name, stored in self.inputs.items():
            values[name] = stored[position if self.rows is None else int(self.rows[name][position])]
            replacement = self.replacements.get(name)
            if replacement is not None and replacement.which[position] >= 0:
                values[name] = replacement.values[int(replacement.which[position])]
        return values

    def read(self, index: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Read the stored values of the samples at ``index``.

        Modalities with a view give the chosen frames, ``(batch, frames, 3, edge, edge)``, channels last in memory.

        Args:
            index: ``(batch,)`` int64 positions.
            generator: random generator for choosing frames in training; None = evaluation, which is deterministic.
        """
        return {name: self.read_modality(name, index, generator) for name in self.inputs}

    def read_modality(self, name: str, index: Tensor, generator: torch.Generator | None) -> Tensor:
        """Read the stored values of one modality, see ``read``."""
        stored = self.inputs[name]
        rows = index if self.rows is None else self.rows[name][index]
        view = self.views.get(name)
        chosen = None if view is None else view.choose(index, generator)
        value = _take(stored, rows, chosen)
        if (replacement := self.replacements.get(name)) is not None:
            which = replacement.which[index]
            replaced = (which >= 0).nonzero().squeeze(1)
            part = None if chosen is None else chosen[replaced]
            value[replaced] = _take(replacement.values, which[replaced], part)
        return value if chosen is None else value.permute(0, 1, 4, 2, 3)

    def finish(self, inputs: dict[str, Tensor], index: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Augment (unless ``generator`` is None) and resize the output of ``read`` on the device it was moved to."""
        finished = dict(inputs)
        for name, view in self.views.items():
            finished[name] = view.transform(inputs[name], view.aspect[index], generator)
        return finished


@dataclass
class MultimodalData:
    """A data set, ready for training.

    Attributes:
        name: name in tables.
        classes: class names; labels index it.
        specs: modality -> format of its inputs. The first modality is the leading one.
        splits: ``train``, ``val`` and ``test``.
        digest: SHA-256 of files, split and recipe, in hex: equal digest = same data, on any machine.
        recipe: the preprocessing in one line.
        truth_known: whether ``Split.corrupted`` is ground truth.
        counts: samples per split, rows skipped, and the like.
        source: origin of the data, in one sentence.
        skipped: one line per dropped row, with the reason.
        excluded: one line per clip excluded by the data set's own recipe.
        lists: list file -> SHA-256, if the split comes from published lists.
        notes: remarks on the data or the split.
        duplicates: validation and test samples with a file whose content is also in an earlier split.
        warnings: what is suspicious about the data, one sentence each: content that occurs in two splits, labels that look alike.
        table: column -> one value per sample of the whole data set: ``sample``, ``split``, ``label``, ``true_classes`` (a list, where
            samples may have several), and metadata of the clips; ``with_table`` makes it for data that are given without.
        folder: the prepared store, if any.
        whole: for a part of a prepared set, the whole set, which the data card describes; else None.
    """

    name: str
    classes: tuple[str, ...]
    specs: dict[str, InputSpec]
    splits: dict[str, Split]
    digest: str
    recipe: str
    truth_known: bool
    counts: dict[str, int]
    source: str
    skipped: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    lists: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    duplicates: int = 0
    warnings: list[str] = field(default_factory=list)
    table: dict[str, list] = field(default_factory=dict)
    folder: Path | None = None
    whole: MultimodalData | None = None

    @property
    def several_classes(self) -> bool:
        """Whether samples may have several true classes: labels are multi-hot."""
        return has_several_classes(self.splits["train"].labels)

    @property
    def card(self) -> Path | None:
        """Folder of the data card of a prepared set; None = there is no store, and each run has a card of its own."""
        return None if self.folder is None else self.folder / f"card-{self.digest[:12]}"

    def with_table(self) -> MultimodalData:
        """Return the data with a complete ``table`` of its samples, in the order that it has; further columns in it stay.

        Splits (of samples held out: train), labels and the lengths of sequences (steps that are not all zero) are those of the samples
        themselves, whatever the table says. So it has to be made before samples are left out or corrupted.
        """
        parts = list(self.splits.items())
        columns: dict[str, list[Any]] = {
            "sample": [sample for _, split in parts for sample in split.samples],
            "split": [name if name in ("val", "test") else "train" for name, split in parts for _ in split.samples],
            "label": [name for _, split in parts for name in label_names(split.labels, self.classes)],
        }
        if self.several_classes:
            columns["true_classes"] = [
                [self.classes[number] for number in row.nonzero().flatten().tolist()]
                for _, split in parts
                for row in split.labels
            ]
        for modality, spec in self.specs.items():
            if spec.kind == SEQUENCE and self.folder is None:  # a store knows the lengths of its files
                columns[f"{modality}_steps"] = [length for _, split in parts for length in _lengths(split, modality)]
        number = {sample: place for place, sample in enumerate(columns["sample"])}
        rows = [row for row, sample in enumerate(self.table["sample"]) if sample in number] if self.table else []
        order = [number[self.table["sample"][row]] for row in rows] or number.values()
        table = {name: [values[place] for place in order] for name, values in columns.items()}
        more = {name: [values[row] for row in rows] for name, values in self.table.items() if name not in table}
        return replace(self, table={**table, **more})

    def with_train_fraction(self, fraction: float, *, seed: int) -> MultimodalData:
        """Return the data with a random fraction of the training split, at least one sample of each class (see ``random_share``).

        The digest does not change: it identifies the data, and the fraction is a separate parameter.
        """
        if fraction >= 1.0:
            return self
        train = self.splits["train"]
        generator = torch.Generator().manual_seed(seed)
        return self._with_parts({"train": train.subset(random_share(train.labels, fraction, generator))})

    def _with_parts(self, parts: dict[str, Split]) -> MultimodalData:
        """Return the data with these splits replaced and the counts updated."""
        sizes = {name: len(part) for name, part in parts.items()}
        if "corrupted" in self.counts:
            sizes["corrupted"] = sum(bool(modality) for modality in parts["train"].corrupted)
        # Splits of a store only index its arrays. For a data set in memory, `whole` would keep unused samples alive.
        whole = None if self.folder is None else self.whole or self
        return replace(self, splits={**self.splits, **parts}, counts={**self.counts, **sizes}, whole=whole)

    def corrupted_by(self, train: Split, text: str) -> MultimodalData:
        """Return the data with a deliberately corrupted training split, whose truth is known; ``text`` says what was done."""
        corrupted = self._with_parts({"train": train})
        return replace(
            corrupted,
            digest=hashlib.sha256(f"{self.digest} {text}".encode()).hexdigest(),
            recipe=f"{self.recipe}; {text}",
            truth_known=True,
            counts={**corrupted.counts, "corrupted": sum(bool(name) for name in train.corrupted)},
            notes=[*self.notes, f"{text}: planted in the training split only"],
            whole=None,
        )

    def with_held_out(self, fraction: float, *, seed: int) -> MultimodalData:
        """Return the data with a stratified fraction of train as a separate split, ``held_out``, for methods that need one.

        A class with a single training sample keeps it in train. Validation, test and the digest do not change. Samples have one class.
        """
        if fraction == 0.0:
            return self
        train = self.splits["train"]
        generator = torch.Generator().manual_seed(seed)
        taken = []
        for indices in samples_by_class(train.labels).values():
            count = min(len(indices) - 1, max(1, round(fraction * len(indices))))
            taken.append(indices[torch.randperm(len(indices), generator=generator)[:count]])
        held_out = torch.cat(taken).sort().values
        rest = torch.ones(len(train), dtype=torch.bool)
        rest[held_out] = False
        return self._with_parts({"train": train.subset(rest.nonzero().squeeze(1)), "held_out": train.subset(held_out)})


class BatchLoader:
    """Batches of a split. The order of an epoch depends only on the seed and the epoch, so there is no state to save.

    Args:
        split: the split to read.
        batch_size: samples per batch. The last batch may be smaller; nothing is dropped. A last batch of a single sample is
            merged into the one before it, because batch normalization cannot train on one sample.
        seed: seed of the shuffling in ``epoch``.
    """

    def __init__(self, split: Split, batch_size: int, *, seed: int = 0) -> None:
        self._split = split
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return self.batches(len(self._split))

    def batches(self, samples: int) -> int:
        """Return the number of batches in an epoch of ``samples`` samples."""
        return len(self._chunks(torch.arange(samples)))

    def epoch(
        self,
        epoch: int,
        device: torch.device,
        *,
        start_batch: int = 0,
        samples: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Iterator[Batch]:
        """Yield the batches of a shuffled epoch from ``start_batch`` on. Randomness in a batch depends only on its position.

        Args:
            epoch: determines the order, together with the loader's seed.
            device: device of the batches.
            start_batch: number of batches to skip.
            samples: ``(n,)`` int64, indices of the samples to use, possibly repeated; None = each sample once.
            present: which modalities each entry of ``samples`` has, see ``EpochPlan``.
        """
        first = (self._seed * 1_000_003 + epoch) % 2**63
        count = len(self._split) if samples is None else len(samples)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(first))
        batches: list[tuple[Tensor, int | None, dict[str, Tensor]]] = []
        for number, positions in list(enumerate(self._chunks(order)))[start_batch:]:
            available = {name: value[positions] for name, value in (present or {}).items()}
            index = positions if samples is None else samples[positions]
            batches.append((index, (first * 100_003 + number) % 2**63, available))
        yield from self._batches(batches, device)

    def ordered(self, device: torch.device) -> Iterator[Batch]:
        """Yield every sample once, in index order, without augmentation."""
        chunks = torch.arange(len(self._split)).split(self._batch_size)
        yield from self._batches([(index, None, {}) for index in chunks], device)

    def _chunks(self, order: Tensor) -> tuple[Tensor, ...]:
        chunks = order.split(self._batch_size)
        if len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks = (*chunks[:-2], torch.cat(chunks[-2:]))
        return chunks

    def _batches(
        self, chunks: list[tuple[Tensor, int | None, dict[str, Tensor]]], device: torch.device
    ) -> Iterator[Batch]:
        if self._split.rows is None:  # in memory: a thread would cost more than it saves
            for chunk in chunks:
                yield self._finish(*self._read(*chunk, device), device)
            return
        with ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(self._read, *chunk, device) for chunk in chunks[:READ_AHEAD]]
            for number in range(len(chunks)):
                ready = pending.pop(0).result()
                if number + READ_AHEAD < len(chunks):
                    pending.append(reader.submit(self._read, *chunks[number + READ_AHEAD], device))
                yield self._finish(*ready, device)

    def _read(
        self, index: Tensor, seed: int | None, present: dict[str, Tensor], device: torch.device
    ) -> tuple[Batch, torch.Generator | None]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        batch = Batch(self._split.read(index, generator), self._split.labels[index], index, present)
        return batch.pinned() if device.type == "cuda" else batch, generator

    def _finish(self, batch: Batch, generator: torch.Generator | None, device: torch.device) -> Batch:
        moved = batch.to(device)
        return replace(moved, inputs=self._split.finish(moved.inputs, batch.index, generator))


def _take(stored: Tensor, rows: Tensor, frames: Tensor | None) -> Tensor:
    """Return rows of a stored array, of each only the given ``frames``, ``(rows, chosen)``, unless None."""
    if frames is None:
        return stored.index_select(0, rows)
    flat = (rows.unsqueeze(1) * stored.shape[1] + frames).flatten()
    # index_select copies whole frames; indexing with two tensors is several times slower.
    return stored.flatten(0, 1).index_select(0, flat).unflatten(0, frames.shape)


def _lengths(split: Split, modality: str) -> list[int]:
    """Return the number of steps of each sequence that are not all zero."""
    parts = torch.arange(len(split)).split(STATISTICS_CHUNK)
    return [
        length for part in parts for length in (split.read_modality(modality, part, None) != 0).any(-1).sum(1).tolist()
    ]


def array_spec(kind: str, split: Split, modality: str, index: Tensor) -> InputSpec:
    """Return the format of vectors or sequences: one mean and standard deviation per feature, of the samples at ``index``.

    Steps of a sequence that are all zero are padding and do not count. A feature that never changes gets a standard deviation of 1:
    divided by less, its smallest change in other samples would exceed everything else.
    """
    stored = split.inputs[modality]
    features = stored.shape[-1]
    total, squares = torch.zeros(2, features, dtype=torch.float64)
    count, shift = 0, None
    for part in index.split(STATISTICS_CHUNK):
        values = split.read_modality(modality, part, None).double().reshape(-1, features)
        if kind == SEQUENCE:
            values = values[(values != 0).any(dim=1)]
        if shift is None and len(values):
            # Differences from a value near the mean: a constant has a variance of exactly 0, whatever rounding does.
            shift = values[0].clone()
        if shift is not None:
            values -= shift
            total += values.sum(0)
            squares += values.square().sum(0)
            count += len(values)
    if shift is None:
        raise ValueError(f"modality {modality!r}: the training samples have no step that is not zero")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
    std = torch.where(std == 0.0, 1.0, std.clamp(min=SMALLEST_STD))
    return InputSpec(kind, tuple(stored.shape[1:]), tuple((mean + shift).tolist()), tuple(std.tolist()))


def channel_statistics(
    values: Tensor, *, channel: int, rows: Tensor | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel over a training split.

    Args:
        values: ``(samples, ...)``; uint8 is scaled to 0-1.
        channel: index of the channel dimension.
        rows: int64, which samples; None = all.

    Returns:
        One mean and one standard deviation (at least 1e-6) per channel.
    """
    others = [dimension for dimension in range(values.dim()) if dimension != channel]
    scale = 255.0 if values.dtype == torch.uint8 else 1.0
    total = torch.zeros(values.shape[channel], dtype=torch.float64)
    squares = torch.zeros_like(total)
    parts = values.split(STATISTICS_CHUNK) if rows is None else rows.split(STATISTICS_CHUNK)
    for part in parts:  # in chunks: a float64 copy of a whole split can exceed the memory
        if rows is not None:
            part = values.index_select(0, part)
        exact = part.double() / scale
        total += exact.sum(others)
        squares += exact.square().sum(others)
    samples = len(values) if rows is None else len(rows)
    count = samples * values[0].numel() // values.shape[channel]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0.0).sqrt().clamp(min=SMALLEST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())
