"""Decoded data in memory, and the batches that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mm_balance.types import Batch, InputSpec

STATISTICS_CHUNK = 64


@dataclass
class Split:
    """One split, decoded, on the CPU.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        inputs: modality -> ``(samples, *spec.shape)``, float32 or uint8.
        labels: ``(samples,)`` int64.
        samples: stable ids.
        corrupted: per sample the modality corrupted on purpose; ``""`` = clean or unknown.
        corruption_kind: per sample how; ``""`` = clean or unknown.
    """

    name: str
    inputs: dict[str, Tensor]
    labels: Tensor
    samples: list[str]
    corrupted: list[str]
    corruption_kind: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Split:
        """The samples at ``index`` (int64 positions), in that order."""
        places = index.tolist()
        return Split(
            self.name,
            {name: value[index] for name, value in self.inputs.items()},
            self.labels[index],
            [self.samples[place] for place in places],
            [self.corrupted[place] for place in places],
            [self.corruption_kind[place] for place in places] if self.corruption_kind else [],
        )


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
        return replace(self, splits={**self.splits, "train": smaller}, counts={**self.counts, "train": len(smaller)})


class BatchLoader:
    """Batches of a split. The order of an epoch depends on the seed and the epoch alone, so it needs no saved state.

    Args:
        split: what to read.
        batch_size: samples per batch; the last one may be smaller, nothing is dropped. A last batch of a single sample
            joins the one before it, because batch normalisation cannot train on one sample.
        seed: of the orders of ``epoch``.
    """

    def __init__(self, split: Split, batch_size: int, *, seed: int = 0) -> None:
        self._split = split
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._chunks(torch.arange(len(self._split))))

    def epoch(self, epoch: int, device: torch.device, *, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of a shuffled epoch, from ``start_batch`` on."""
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self._split), generator=generator)
        yield from self._batches(self._chunks(order)[start_batch:], device)

    def ordered(self, device: torch.device) -> Iterator[Batch]:
        """Every sample once, in index order."""
        yield from self._batches(torch.arange(len(self._split)).split(self._batch_size), device)

    def _chunks(self, order: Tensor) -> tuple[Tensor, ...]:
        chunks = order.split(self._batch_size)
        if len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks = (*chunks[:-2], torch.cat(chunks[-2:]))
        return chunks

    def _batches(self, chunks: tuple[Tensor, ...], device: torch.device) -> Iterator[Batch]:
        for index in chunks:
            batch = Batch(
                {name: value[index] for name, value in self._split.inputs.items()}, self._split.labels[index], index
            )
            if device.type == "cuda":
                batch = Batch(
                    {name: value.pin_memory() for name, value in batch.inputs.items()},
                    batch.labels.pin_memory(),
                    batch.index.pin_memory(),
                )
            yield batch.to(device)


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
