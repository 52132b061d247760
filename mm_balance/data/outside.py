"""Data sets that a function outside this package makes: called, checked, and identified by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mm_balance.data.dataset import MultimodalData, Split
from mm_balance.data.manifest import SPLITS
from mm_balance.errors import NEEDS_CLASSES, UserError
from mm_balance.functional.gap import multi_hot_fault
from mm_balance.functional.labels import class_sizes, strata
from mm_balance.input_kinds import IMAGE, INPUT_KINDS, VIDEO

VERSION = "contents-1"
CHUNK = 256
RETURN_WANTED = "return what mm_balance.from_dataset makes, or a MultimodalData"


def load_outside(build: Callable[[], Any], modalities: Sequence[str], what: str) -> MultimodalData:
    """Return the data set that a function makes, checked, with these modalities and a digest of its contents.

    Args:
        build: the function; it is called without arguments.
        modalities: which ones, in which order; the first one is the leading one of the gap.
        what: name for messages, as ``dataset=my_data:build``.

    Raises:
        UserError: it returns something else, lacks a modality, or the parts do not fit together.
    """
    data = build()
    if not isinstance(data, MultimodalData):
        raise UserError(f"{what} returned a {type(data).__name__}; {RETURN_WANTED}")
    check_data(data, what)
    if missing := [name for name in modalities if name not in data.specs]:
        has = ",".join(data.specs)
        raise UserError(
            f"{what} has the modalities {has}, not {','.join(missing)}; give modalities={has}, or let the function have it as a "
            f'default: build.settings = {{"modalities": "{has}"}}'
        )
    chosen = with_modalities(data, modalities).with_table()
    return replace(chosen, digest=content_digest(chosen))


def with_modalities(data: MultimodalData, modalities: Sequence[str]) -> MultimodalData:
    """Return the data with these modalities, in this order."""

    def of(values: Any) -> Any:
        return None if values is None else {name: values[name] for name in modalities if name in values}

    splits = {
        name: replace(
            split, inputs=of(split.inputs), rows=of(split.rows), views=of(split.views), replacements=of(split.replacements)
        )
        for name, split in data.splits.items()
    }  # fmt: skip
    return replace(data, specs=of(data.specs), splits=splits)


def check_data(data: MultimodalData, what: str) -> None:
    """Check that the parts of a data set fit together, and that every number can be trained on.

    Args:
        data: the data set.
        what: its name for messages.

    Raises:
        UserError: what does not fit, of which split, modality and sample.
    """
    if missing := [name for name in SPLITS if not len(data.splits.get(name, ()))]:
        raise UserError(
            f"{what} has no samples in split {', '.join(missing)}; train, val and test need some each (from_dataset takes those of "
            "val from train if there are none)"
        )
    if len(data.classes) < 2 or len(set(data.classes)) < len(data.classes):
        raise UserError(f"{what} has the classes {list(data.classes)[:5]}; give two or more different ones")
    if len(data.specs) < 2:
        raise UserError(f"{what} has the modalities {', '.join(data.specs) or 'none'}; give two or more")
    seen: dict[str, str] = {}
    for name, split in data.splits.items():
        _check_split(data, split, f"{what}: split {name}")
        for sample in split.samples:
            if sample in seen:
                raise UserError(
                    f"{what}: the sample id {sample!r} is in {seen[sample]} and in {name}; give each its own"
                )
            seen[sample] = name
    train = data.splits["train"].labels
    sizes = class_sizes(train, len(data.classes)).tolist()
    if absent := [name for name, size in zip(data.classes, sizes, strict=True) if not size]:
        raise UserError(f"{what}: no training samples of class {', '.join(map(repr, absent[:5]))}")
    if len(strata(train).unique()) == 1:
        raise UserError(f"{what}: all training samples have the same classes; there is nothing to learn")
    if data.table:
        _check_table(data.table, seen, what)


def _check_table(table: Mapping[str, Sequence[Any]], samples: Collection[str], what: str) -> None:
    """Check the metadata of samples: a row for each of them, maybe of others, too, with values that a table can have."""
    rows = list(table.get("sample", ()))
    known = set(rows)
    if lacking := [sample for sample in samples if sample not in known]:
        raise UserError(
            f"{what}: its table has no row of sample {lacking[0]!r}; its column `sample` has to name all samples"
        )
    if len(known) < len(rows) or any(len(values) != len(rows) for values in table.values()):
        raise UserError(f"{what}: its table needs one value for each sample in each column, and each sample once")
    for name, values in table.items():
        try:
            pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise UserError(f"{what}: column {name} of its table: {str(error).splitlines()[0]}") from None


def _check_split(data: MultimodalData, split: Split, where: str) -> None:
    count = len(split.labels)
    _check_labels(data, split, where)
    if len(split.samples) != count or len(split.corrupted) != count:
        raise UserError(
            f"{where}: {count} labels, {len(split.samples)} sample ids, {len(split.corrupted)} entries of `corrupted`"
        )
    for name, spec in data.specs.items():
        if spec.kind not in INPUT_KINDS:
            raise UserError(f"{where}, modality {name}: kind {spec.kind!r} is not one of {', '.join(INPUT_KINDS)}")
        if name not in split.inputs:
            raise UserError(f"{where} has no modality {name}")
        stored = split.inputs[name]
        if split.rows is None and len(stored) != count:
            raise UserError(f"{where}, modality {name}: {len(stored)} samples, {count} labels")
        dimensions = INPUT_KINDS[VIDEO if spec.kind == IMAGE and len(spec.shape) == 4 else spec.kind]
        if len(spec.shape) != len(dimensions.dimensions):
            raise UserError(
                f"{where}, modality {name}: the shape of a {spec.kind} is {dimensions.shape_text()}, not {spec.shape}"
            )
        if name in split.views:  # of a store, which was checked as it was written
            continue
        if tuple(stored.shape[1:]) != spec.shape:
            raise UserError(
                f"{where}, modality {name}: samples of shape {tuple(stored.shape[1:])}, but its spec says {spec.shape}"
            )
        if stored.dtype not in (torch.float32, torch.uint8):
            raise UserError(f"{where}, modality {name}: {stored.dtype}; give float32, or uint8 for pictures")
        if stored.dtype == torch.float32:
            _check_finite(split, name, where)


def _check_labels(data: MultimodalData, split: Split, where: str) -> None:
    labels, classes = split.labels, len(data.classes)
    if labels.dtype == torch.bool and tuple(labels.shape[1:]) == (classes,):
        if (fault := multi_hot_fault(labels)) is not None:
            row, why = fault
            raise UserError(f"{where}, sample {split.samples[row]!r}: {why}")
        if data.splits["train"].labels.dim() != 2:
            raise UserError(f"{where}: several classes per sample, but one in train; give all splits the same")
        return
    if labels.dtype != torch.int64 or labels.dim() != 1:
        targets = (labels.is_floating_point() or labels.is_complex()) and labels.shape[1:].numel() == 1
        needed = NEEDS_CLASSES if targets else (
            f"Give int64, (samples,), the number of each sample's class; or bool, (samples, {classes}), true for each of its classes"
        )  # fmt: skip
        raise UserError(f"{where}: labels are {labels.dtype} of shape {tuple(labels.shape)}. {needed}")
    if data.splits["train"].labels.dim() != 1:
        raise UserError(f"{where}: one class per sample, but several in train; give all splits the same")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(
            f"{where}: labels from {int(labels.min())} to {int(labels.max())}, but classes are 0 to {classes - 1}"
        )


def _check_finite(split: Split, name: str, where: str) -> None:
    for part in torch.arange(len(split)).split(CHUNK):
        finite = torch.isfinite(split.read_modality(name, part, None)).flatten(1).all(1)
        if not finite.all():
            sample = split.samples[int(part[int((~finite).nonzero()[0])])]
            raise UserError(f"{where}, modality {name}, sample {sample!r}: NaN or infinite values")


def content_digest(data: MultimodalData) -> str:
    """Return the SHA-256 of everything that training sees: arrays, labels, sample ids, splits, classes, specs, in hex."""
    digest = hashlib.sha256()

    def add(values: Any) -> None:
        digest.update(json.dumps(values).encode())
        digest.update(b"\n")

    add([VERSION, list(data.classes), [[name, asdict(spec)] for name, spec in data.specs.items()]])
    for name, split in sorted(data.splits.items()):
        add([name, split.samples, split.corrupted, split.corruption_kind])
        digest.update(_bytes(split.labels))
        for modality in data.specs:
            add([modality, str(split.inputs[modality].dtype)])
            for part in torch.arange(len(split)).split(CHUNK):
                digest.update(_bytes(split.read_modality(modality, part, None)))
    return digest.hexdigest()


def _bytes(values: Tensor) -> bytes:
    """Return the numbers of a tensor as bytes, little-endian on every machine."""
    numbers = values.numpy()
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()
