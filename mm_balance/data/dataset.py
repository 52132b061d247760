"""Decoded data in memory, and the batches that come of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mm_balance.data.augment import VisualTransform, choose_frames
from mm_balance.types import Batch, InputSpec

STATISTICS_CHUNK = 64
READ_AHEAD = 3
"""Batches read from a store while the current one trains."""


@dataclass
class FrameView:
    """How the stored frames of a split become what the network sees.

    Attributes:
        transform: which frames, and their augmentation.
        counts: ``(samples,)`` int64, frames that each clip has.
        aspect: ``(samples,)`` float32, width / height of the original pictures.
    """

    transform: VisualTransform
    counts: Tensor
    aspect: Tensor

    def at(self, index: Tensor) -> FrameView:
        """The same of the samples at ``index``."""
        return FrameView(self.transform, self.counts[index], self.aspect[index])


@dataclass
class Split:
    """One split, on the CPU.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        inputs: modality -> decoded values, float32 or uint8: ``(samples, *spec.shape)``; or, where ``rows`` is given, the
            arrays of a store, which are mapped rather than read; under a view ``(rows, frames, edge, edge, 3)``.
        labels: ``(samples,)`` int64.
        samples: stable ids.
        corrupted: per sample the modality corrupted on purpose; ``""`` = clean or unknown.
        corruption_kind: per sample how; ``""`` = clean or unknown.
        rows: ``(samples,)`` int64, where in ``inputs`` each sample lies; None = in order.
        views: modality -> what becomes of its stored frames; modalities without one are taken as they are.
    """

    name: str
    inputs: dict[str, Tensor]
    labels: Tensor
    samples: list[str]
    corrupted: list[str]
    corruption_kind: list[str] = field(default_factory=list)
    rows: Tensor | None = None
    views: dict[str, FrameView] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def samples_digest(self) -> str:
        """SHA-256 of the sample ids in their order, in hex: what a table by sample index belongs to."""
        return hashlib.sha256(json.dumps(self.samples).encode()).hexdigest()

    def subset(self, index: Tensor) -> Split:
        """The samples at ``index`` (int64 positions), in that order."""
        places = index.tolist()
        return Split(
            self.name,
            {name: value[index] for name, value in self.inputs.items()} if self.rows is None else self.inputs,
            self.labels[index],
            [self.samples[place] for place in places],
            [self.corrupted[place] for place in places],
            [self.corruption_kind[place] for place in places] if self.corruption_kind else [],
            None if self.rows is None else self.rows[index],
            {name: view.at(index) for name, view in self.views.items()},
        )

    def read(self, index: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Stored values of the samples at ``index``; of clips, the frames that the network will see, ``(batch, frames, 3, edge,
        edge)`` with channels last in memory.

        Args:
            index: ``(batch,)`` int64 positions.
            generator: of the choice of frames in training; None = evaluation, where nothing is random.
        """
        places = index if self.rows is None else self.rows[index]
        found = {}
        for name, value in self.inputs.items():
            view = self.views.get(name)
            if view is None:
                found[name] = value.index_select(0, places)
                continue
            chosen = choose_frames(view.counts[index], view.transform.frames, view.transform.how, generator)
            flat = (places.unsqueeze(1) * value.shape[1] + chosen).flatten()
            # index_select copies whole frames; indexing by two tensors is several times slower.
            frames = value.flatten(0, 1).index_select(0, flat)
            found[name] = frames.unflatten(0, chosen.shape).permute(0, 1, 4, 2, 3)
        return found

    def finish(self, inputs: dict[str, Tensor], index: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """What ``read`` gave, by now on the device of training, augmented (``generator`` None: not) and resized there."""
        finished = dict(inputs)
        for name, view in self.views.items():
            finished[name] = view.transform(inputs[name], view.aspect[index], generator)
        return finished


@dataclass
class MultimodalData:
    """A data set, ready to train on.

    Attributes:
        name: as tables call it.
        classes: class names; a label is a place in it.
        specs: modality -> what its inputs look like; the first modality is the leading one.
        splits: ``train``, ``val`` and ``test``.
        digest: SHA-256 of files, split and recipe, in hex: equal digest = same data, on any machine.
        recipe: the preprocessing in one line.
        truth_known: whether ``Split.corrupted`` is the truth.
        counts: samples per split, rows skipped, and the like.
        source: one sentence on where the data come from.
        skipped: one line per row that was dropped, with its reason.
        excluded: one line per clip that the data set's own recipe leaves out.
        lists: list file -> SHA-256, where the split comes from published lists.
        notes: what one should know of the data or the split.
        table: one value per sample and column, for all splits: what is known of each clip.
        folder: of the prepared store, where there is one.
        whole: of a part of a prepared set, the set that it is a part of, which the data card describes; else None.
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
    table: dict[str, list] = field(default_factory=dict)
    folder: Path | None = None
    whole: MultimodalData | None = None

    @property
    def card(self) -> Path | None:
        """Folder of the data card of a prepared set."""
        return None if self.folder is None else self.folder / f"card-{self.digest[:12]}"

    def with_train_fraction(self, fraction: float, *, seed: int) -> MultimodalData:
        """The same data with a stratified share of the training split (at least one sample of each class).

        The digest stays: it identifies the data; the share is a parameter of its own.
        """
        if fraction >= 1.0:
            return self
        train = self.splits["train"]
        generator = torch.Generator().manual_seed(seed)
        kept = []
        for label in train.labels.unique():
            places = (train.labels == label).nonzero().squeeze(1)
            chosen = torch.randperm(len(places), generator=generator)[: max(1, round(fraction * len(places)))]
            kept.append(places[chosen])
        smaller = train.subset(torch.cat(kept).sort().values)
        return self._with_parts({"train": smaller})

    def _with_parts(self, parts: dict[str, Split]) -> MultimodalData:
        """The same data with these splits, and counts that are true of them."""
        sizes = {name: len(part) for name, part in parts.items()}
        if "corrupted" in self.counts:
            sizes["corrupted"] = sum(bool(modality) for modality in parts["train"].corrupted)
        # The splits of a store are only places in its arrays; the whole of a set in memory would be kept for nothing.
        whole = None if self.folder is None else self.whole or self
        return replace(self, splits={**self.splits, **parts}, counts={**self.counts, **sizes}, whole=whole)

    def with_held_out(self, fraction: float, *, seed: int) -> MultimodalData:
        """The same data with a stratified share of train as a split of its own, ``held_out``, for methods that need one.

        A class with one training sample keeps it. Validation and test are not touched; the digest stays.
        """
        if fraction == 0.0:
            return self
        train = self.splits["train"]
        generator = torch.Generator().manual_seed(seed)
        taken = []
        for label in train.labels.unique():
            places = (train.labels == label).nonzero().squeeze(1)
            share = min(len(places) - 1, max(1, round(fraction * len(places))))
            taken.append(places[torch.randperm(len(places), generator=generator)[:share]])
        held_out = torch.cat(taken).sort().values
        rest = torch.ones(len(train), dtype=torch.bool)
        rest[held_out] = False
        return self._with_parts({"train": train.subset(rest.nonzero().squeeze(1)), "held_out": train.subset(held_out)})


class BatchLoader:
    """Batches of a split. The order of an epoch depends on the seed and the epoch alone, so it needs no saved state.

    Args:
        split: what to read.
        batch_size: samples per batch; the last one may be smaller, nothing is dropped. A last batch of a single sample
            joins the one before it, because batch normalization cannot train on one sample.
        seed: of the orders of ``epoch``.
    """

    def __init__(self, split: Split, batch_size: int, *, seed: int = 0) -> None:
        self._split = split
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return self.batches(len(self._split))

    def batches(self, samples: int) -> int:
        """Batches of an epoch that shows so many samples."""
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
        """The batches of a shuffled epoch, from ``start_batch`` on. What is random in a batch depends on its place alone.

        Args:
            epoch: with the loader's seed, decides the order.
            device: where batches go.
            start_batch: batches to leave out.
            samples: ``(n,)`` int64, what to show; None = each sample once.
            present: beside ``samples``, see ``EpochPlan``.
        """
        first = (self._seed * 1_000_003 + epoch) % 2**63
        count = len(self._split) if samples is None else len(samples)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(first))
        batches: list[tuple[Tensor, int | None, dict[str, Tensor]]] = []
        for number, places in list(enumerate(self._chunks(order)))[start_batch:]:
            shown = {name: value[places] for name, value in (present or {}).items()}
            index = places if samples is None else samples[places]
            batches.append((index, (first * 100_003 + number) % 2**63, shown))
        yield from self._batches(batches, device)

    def ordered(self, device: torch.device) -> Iterator[Batch]:
        """Every sample once, in index order, without augmentation."""
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
        if self._split.rows is None:  # in memory: a thread would cost more than it hides
            for chunk in chunks:
                yield self._finish(*self._read(*chunk, device), device)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self._read, *chunk, device) for chunk in chunks[:READ_AHEAD]]
            for number in range(len(chunks)):
                ready = ahead.pop(0).result()
                if number + READ_AHEAD < len(chunks):
                    ahead.append(reader.submit(self._read, *chunks[number + READ_AHEAD], device))
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


def channel_statistics(values: Tensor, *, channel: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over a training split.

    Args:
        values: ``(samples, ...)``; uint8 is read as 0-1.
        channel: which dimension holds the channels.

    Returns:
        One mean and one standard deviation (at least 1e-6) per channel.
    """
    others = [dimension for dimension in range(values.dim()) if dimension != channel]
    scale = 255.0 if values.dtype == torch.uint8 else 1.0
    total = torch.zeros(values.shape[channel], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in values.split(STATISTICS_CHUNK):  # a float64 copy of a whole split can exceed the memory
        exact = part.double() / scale
        total += exact.sum(others)
        squares += exact.square().sum(others)
    count = values.numel() // values.shape[channel]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0.0).sqrt().clamp(min=1e-6)
    return tuple(mean.tolist()), tuple(std.tolist())
