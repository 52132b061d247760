"""From any data set in Python whose samples are mappings, or of Hugging Face, to a ``MultimodalData``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm_balance.data.dataset import MultimodalData, Split, array_spec, channel_statistics
from mm_balance.data.growing_array import RowWriter, check_disk_space, write_header
from mm_balance.data.manifest import (
    SOUND_NAMES,
    SPLITS,
    Row,
    check_groups,
    check_labels,
    label_tensor,
    refuse_fractions,
    several_classes_fault,
    split_off_validation,
)
from mm_balance.data.outside import check_data, content_digest
from mm_balance.errors import NEEDS_CLASSES, UserError
from mm_balance.folders import cache_folder
from mm_balance.functional.gap import multi_hot_fault
from mm_balance.input_kinds import IMAGE, INPUT_KINDS, SEQUENCE, SOUND, VECTOR, VIDEO
from mm_balance.types import InputSpec

IN_MEMORY = 2 << 30
"""Bytes of all arrays together from which on they lie in files that are mapped into memory."""
CALLED_VAL = ("validation", "valid", "dev")
"""Names of the validation split besides ``val``."""
SAVED_EVERY = 256
"""Samples between two notes of how far the writing has come."""
PROGRESS_FILE = "written.json"


@dataclass(frozen=True)
class InputColumn:
    """The column that a modality is read from.

    Attributes:
        column: its name.
        kind: key of ``INPUT_KINDS``; None = guessed from the first training sample: an array of one dimension is a vector, of two
            a sequence ``(steps, features)`` (of uint8: a gray picture), of three a picture ``(channels, height, width)`` (a sound,
            if the name of the modality begins with audio, sound, speech or voice), of four a video. Pictures of PIL are pictures.
        steps: of a sequence, how many are kept: longer ones are cut, shorter ones padded with zeros; None = those of the longest in
            train.
    """

    column: str
    kind: str | None = None
    steps: int | None = None


def from_dataset(
    data: Any,
    *,
    modalities: Mapping[str, str | InputColumn] | Sequence[str],
    label: str = "label",
    split: str | None = None,
    sample: str | None = None,
    group: str | None = None,
    classes: Sequence[str] | None = None,
    name: str = "dataset",
    seed: int = 0,
    version: str | None = None,
    in_memory: int = IN_MEMORY,
) -> MultimodalData:
    """Make a data set for training from samples that are mappings from column to value.

    Without validation samples, a stratified tenth of train is taken for it; groups stay together.

    Args:
        data: one data set per split, ``{"train": ..., "val": ..., "test": ...}``, or one for all with a column ``split``. A data
            set is anything with a length and numbered samples: a ``torch.utils.data.Dataset``, a list of dictionaries, a Hugging
            Face ``Dataset``; a ``DatasetDict`` is a mapping of them. Samples are read twice, those of sequences three times.
        modalities: modality -> column; or the columns, which are then the modalities. The first one is the leading one of the gap.
        label: column of the class, a text or a whole number; or, for several true classes per sample, of a list of these, or of
            their multi-hot vector, an array with 1 for each of ``classes`` that is true. All samples have the same form; a sample
            without a true class, and targets of a regression, are refused.
        split: column of the split, ``train``, ``val`` or ``test``.
        sample: column of the sample's id; None = split and number.
        group: column of the group (speaker, source video), which may not be in two splits.
        classes: names of the classes, in the order of their numbers; None = those of Hugging Face's ``ClassLabel``, else the labels
            that occur in train, sorted.
        name: name in tables.
        seed: seed for choosing validation samples if there are none.
        version: for arrays that are written to files: any text that is changed when the data change. While it is the same, files
            that are there are used, and what was interrupted goes on. None = that of Hugging Face's data sets; of others, files are
            written anew and then found to be there already if the contents are the same.
        in_memory: bytes of all arrays from which on they are written to files in the cache folder, and mapped into memory.

    Raises:
        UserError: splits, columns, labels or values that cannot be used, with split, sample, column and reason.
    """
    columns = _columns(modalities)
    parts = _parts(data, split)
    first = _sample(parts, "train", 0)
    _check_columns(first, [*(item.column for item in columns.values()), label, *filter(None, (split, sample, group))])
    rows, places, length = _rows(parts, label, split, sample, group)
    where = Path(name)
    labels, known = _labels(rows, parts, label, classes, length, where)
    warned = check_labels(where, rows)
    check_groups(where, rows)
    if not any(row.split == "val" for row in rows):
        split_off_validation(where, rows, seed)
    reader = _Reader(parts, places, rows, columns)
    inputs, mapped = reader.read(name, version or _version_of(parts), in_memory)
    whole = Split(
        "all", inputs, labels, [row.sample for row in rows], [""] * len(rows),
        rows=dict.fromkeys(inputs, torch.arange(len(rows))) if mapped else None,
    )  # fmt: skip
    splits = {}
    for wanted in SPLITS:
        members = torch.tensor([number for number, row in enumerate(rows) if row.split == wanted], dtype=torch.int64)
        splits[wanted] = whole.subset(members)
        splits[wanted].name = wanted
    train = splits["train"]
    specs = {modality: _spec(reader.kinds[modality], train, modality) for modality in columns} if len(train) else {}
    recipe = "; ".join(f"{key} {spec.kind} {' x '.join(map(str, spec.shape))}" for key, spec in specs.items())
    made = MultimodalData(
        name=name,
        classes=known,
        specs=specs,
        splits=splits,
        digest="",
        recipe=f"arrays as given: {recipe}",
        truth_known=False,
        counts={name: len(part) for name, part in splits.items()},
        source=f"Data set {name}, given in Python.",
        warnings=warned,
        table={"sample": whole.samples, "split": [row.split for row in rows], "label": [row.label for row in rows]}
        | ({"group": [row.group for row in rows]} if group else {}),
    )
    check_data(made, name)
    made.digest = content_digest(made)
    return made


def _columns(modalities: Mapping[str, str | InputColumn] | Sequence[str]) -> dict[str, InputColumn]:
    if isinstance(modalities, str) or len(modalities) < 2:
        raise UserError('modalities: give two or more, as {"audio": "column", "visual": "column"}')
    named = modalities if isinstance(modalities, Mapping) else {item: item for item in modalities}
    found = {name: item if isinstance(item, InputColumn) else InputColumn(item) for name, item in named.items()}
    for name, item in found.items():
        if item.kind is not None and item.kind not in INPUT_KINDS:
            raise UserError(f"modality {name}: kind {item.kind!r} is not one of {', '.join(INPUT_KINDS)}")
    return found


def _parts(data: Any, split: str | None) -> dict[str, Any]:
    """Return the data sets by split; ``""`` = one for all."""
    if not isinstance(data, Mapping):
        if split is None:
            raise UserError(
                'one data set without a column of splits: give split="COLUMN", or {"train": ..., "val": ..., "test": ...}'
            )
        parts = {"": data}
    elif split is not None:
        raise UserError(f"split={split!r} and one data set per split: give one of both")
    else:
        parts = {_split_name(str(name)): part for name, part in data.items()}
        if unknown := [name for name in parts if name not in SPLITS]:
            raise UserError(
                f"split {', '.join(map(repr, unknown))} is not one of {', '.join(SPLITS)}: leave it out, or rename it"
            )
    for name, part in parts.items():
        if not hasattr(part, "__getitem__") or not hasattr(part, "__len__"):
            raise UserError(
                f"the data set{f' of {name}' if name else ''}, a {type(part).__name__}, has no length or no numbered samples; give "
                "list(...) of it if it fits in memory"
            )
    if not sum(len(part) for part in parts.values()):
        raise UserError("the data set has no samples")
    return parts


def _split_name(name: str) -> str:
    return "val" if name in CALLED_VAL else name


def _sample(parts: Mapping[str, Any], name: str, number: int) -> Mapping[str, Any]:
    if name not in parts:
        name = next(iter(parts))
    found = parts[name][number]
    if not isinstance(found, Mapping):
        raise UserError(
            f"sample {number} of {name or 'the data set'} is a {type(found).__name__}, not a mapping from column to value; return "
            '{"audio": ..., "visual": ..., "label": ...}'
        )
    return found


def _check_columns(first: Mapping[str, Any], wanted: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in first]:
        raise UserError(f"no column {', '.join(missing)}; the samples have {', '.join(map(str, first))}")


def _rows(
    parts: Mapping[str, Any], label: str, split: str | None, sample: str | None, group: str | None
) -> tuple[list[Row], list[tuple[str, int]], int | None]:
    """Return a row per sample, as of a manifest, where each one is (data set and number), and the length of multi-hot labels.

    Arrays are not kept.
    """
    rows: list[Row] = []
    places, seen, length = [], Counter[str](), None
    for name, part in parts.items():
        for number, found in enumerate(_without_inputs(part, [label, *filter(None, (split, sample, group))])):
            of = _split_name(str(found[split])) if split else name
            where = f"sample {number} of {name or 'the data set'}"
            if of not in SPLITS:
                raise UserError(f"{where}: split {of!r} is not one of {', '.join(SPLITS)}")
            text = str(found[sample]) if sample else f"{name or of}-{number}"
            seen[text] += 1
            if seen[text] > 1:
                raise UserError(f"{where}: the id {text!r} occurs twice; give each sample its own")
            if found[label] is None:
                raise UserError(f"{where}: no label")
            shown = "" if group is None or found[group] is None else str(found[group])
            value = found[label]
            several = _true_classes(value, where) if _is_several(value) else None
            label_text = _label_text(value, where) if several is None else ", ".join(several)
            row = Row(number, text, of, label_text, shown, {}, {}, several)
            if rows and (row.several is None) != (rows[0].several is None):
                raise UserError(
                    f"{where}: the label is a {type(value).__name__}, others are not; give a list in all, or in none"
                )
            if several is not None and (vector := _vector(value)) is not None:
                if length not in (None, len(vector)):
                    raise UserError(f"{where}: the label has {len(vector)} numbers, those before it {length}")
                length = len(vector)
            rows.append(row)
            places.append((name, number))
    return rows, places, length


def _without_inputs(part: Any, columns: list[str]) -> Any:
    """Return the samples of a data set with these columns at least; Hugging Face's decodes only these."""
    if hasattr(part, "select_columns"):
        part = part.select_columns(list(dict.fromkeys(columns)))
    return (_sample({"": part}, "", number) for number in range(len(part)))


def _is_several(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) or (
        isinstance(value, Tensor | np.ndarray) and value.ndim > 0
    )


def _vector(value: Any) -> Tensor | None:
    """Return a label that is an array, or a list of numbers with fractions or of truth values; None = it is another list."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, float | bool) for item in value):
        value = np.asarray(value)  # as data sets of Hugging Face give vectors
    return torch.as_tensor(value) if isinstance(value, Tensor | np.ndarray) and value.ndim > 0 else None


def _true_classes(value: Any, where: str) -> tuple[str, ...]:
    """Return the true classes of a label of several, as texts; of a multi-hot vector, the numbers of its classes.

    Raises:
        UserError: it is neither a list of classes nor a multi-hot vector, or no class is true.
    """
    vector = _vector(value)
    if vector is not None:
        if vector.ndim != 1 or len(vector) < 2:
            needed = NEEDS_CLASSES if vector.numel() == 1 else "Give one number for each class"
            raise UserError(f"{where}: the label is an array of shape {tuple(vector.shape)}. {needed}")
        if (fault := multi_hot_fault(vector.unsqueeze(0))) is not None:
            raise UserError(f"{where}, label: {fault[1]}")
        return tuple(str(number) for number in vector.nonzero().flatten().tolist())
    texts = [_label_text(item, where) for item in value]
    texts = sorted(texts) if isinstance(value, set | frozenset) else texts
    if reason := several_classes_fault(texts):
        hint = "; a multi-hot vector must be an array" if set(texts) <= {"0", "1"} else ""
        raise UserError(f"{where}, label: {reason}{hint}")
    return tuple(texts)


def _label_text(value: Any, where: str) -> str:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_):
        value = int(value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        raise UserError(f"{where}: the label {value} is no class; give a text or a whole number. {NEEDS_CLASSES}")
    raise UserError(
        f"{where}: the label is a {type(value).__name__}; give a text or a whole number, or a list of these"
    )


def _labels(
    rows: list[Row],
    parts: Mapping[str, Any],
    label: str,
    classes: Sequence[str] | None,
    length: int | None,
    where: Path,
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels and the names of the classes; the rows get the names. ``length``: of multi-hot labels, if they are."""
    features = getattr(next(iter(parts.values())), "features", None)
    feature = features[label] if isinstance(features, Mapping) else None
    named = classes or getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    in_train = {name for row in rows if row.split == "train" for name in row.classes}
    if not in_train:
        raise UserError("no samples of split train")
    if named is not None and length not in (None, len(named)):
        raise UserError(
            f"the labels have {length} numbers each, but there are {len(named)} classes; give one number per class"
        )
    if named is None and length is not None:
        named = [str(number) for number in range(length)]
    if named is None:
        refuse_fractions(where, rows, ", or give classes=")
        whole = all(text.lstrip("-").isdigit() for text in in_train)
        named = sorted(in_train, key=int) if whole else sorted(in_train)
        for row in rows:
            if strange := [name for name in row.classes if name not in in_train]:
                raise UserError(f"sample {row.sample!r}: label {strange[0]!r} does not occur in train")
    known = tuple(map(str, named))
    names = {str(number): text for number, text in enumerate(known)} | {text: text for text in known}
    for row in rows:
        found = []
        for text in row.classes:
            name = names.get(text)
            if name is None:
                raise UserError(
                    f"sample {row.sample!r}: label {text!r} is none of the {len(known)} classes, and no number of one"
                )
            found.append(name)
        row.label = ", ".join(found)
        row.several = None if row.several is None else tuple(found)
    return label_tensor(rows, known), known


class _Reader:
    """Reads the columns of the modalities into arrays, in memory or in files."""

    def __init__(
        self,
        parts: Mapping[str, Any],
        places: list[tuple[str, int]],
        rows: list[Row],
        columns: Mapping[str, InputColumn],
    ) -> None:
        self._parts, self._places, self._rows, self._columns = parts, places, rows, columns
        first = next(number for number, row in enumerate(rows) if row.split == "train")
        sample = _sample(parts, *places[first])
        self.kinds: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, str] = {}
        for name, item in columns.items():
            values = self._array(sample, name, first)
            self.kinds[name] = kind = item.kind or _guess(name, values, self._where(first, item))
            values = self._as(values, kind, first, item)
            self._shapes[name], self._types[name] = values.shape, values.dtype.str
        lengths = {name: self._longest(name) for name, kind in self.kinds.items() if kind == SEQUENCE}
        self._shapes |= {name: (length, self._shapes[name][1]) for name, length in lengths.items()}

    def read(self, name: str, version: str | None, in_memory: int) -> tuple[dict[str, Tensor], bool]:
        """Return the arrays, ``(samples, *shape)``, and whether they are mapped from files."""
        count = len(self._rows)
        sizes = {
            key: count * int(np.prod(shape)) * np.dtype(self._types[key]).itemsize
            for key, shape in self._shapes.items()
        }
        if sum(sizes.values()) <= in_memory:
            arrays = {key: np.empty((count, *shape), self._types[key]) for key, shape in self._shapes.items()}
            for number in range(count):
                for key, values in self._values(number).items():
                    arrays[key][number] = values
            return {key: torch.from_numpy(array) for key, array in arrays.items()}, False
        folder = self._written_anew(name) if version is None else self._written(name, version)
        with warnings.catch_warnings():
            # torch warns that the arrays are read-only; they are only ever indexed.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            mapped = {key: torch.from_numpy(np.load(folder / f"{key}.npy", mmap_mode="r")) for key in self._shapes}
        return mapped, True

    def _written(self, name: str, version: str) -> Path:
        """Return the folder of this version of the data, completed if it is not."""
        ids = [[row.sample, *place] for row, place in zip(self._rows, self._places, strict=True)]
        columns = {key: asdict(item) for key, item in self._columns.items()}
        shapes = [[key, list(shape), self._types[key]] for key, shape in self._shapes.items()]
        key = hashlib.sha256(json.dumps([version, columns, shapes, ids]).encode()).hexdigest()[:12]
        folder = _arrays_folder() / f"{name}-{key}"
        self._write(folder, hashlib.sha256())
        return folder

    def _written_anew(self, name: str) -> Path:
        """Return the folder of data with these contents: other processes may have one of the same mapped, and it stays as it is."""
        _arrays_folder().mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=_arrays_folder()))
        try:
            self._write(temporary, digest)
            folder = _arrays_folder() / f"{name}-{digest.hexdigest()[:12]}"
            with suppress(OSError):  # the same contents are there already
                os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def _write(self, folder: Path, digest: hashlib._Hash) -> None:
        """Write the arrays from where an earlier process came to; ``digest`` gets what is written."""
        count = len(self._rows)
        shapes = {key: (shape, self._types[key]) for key, shape in self._shapes.items()}
        progress = folder / PROGRESS_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            done = json.loads(progress.read_text("utf-8")) if progress.is_file() else 0
            if done == count:
                return
            check_disk_space(folder, count - done, shapes)
            for key, (shape, dtype) in shapes.items():
                write_header(folder / f"{key}.npy", count, shape, dtype)
            files = {key: (folder / f"{key}.npy").open("r+b") for key in shapes}
            try:
                writers = {key: RowWriter(file, *shapes[key]) for key, file in files.items()}
                for number in range(done, count):
                    for key, values in self._values(number).items():
                        writers[key].write(number, values)
                        digest.update(values.tobytes())
                    if (number + 1) % SAVED_EVERY == 0 or number + 1 == count:
                        partial = folder / f".{PROGRESS_FILE}"
                        partial.write_text(json.dumps(number + 1), "utf-8")
                        os.replace(partial, progress)
            finally:
                for file in files.values():
                    file.close()
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error

    def _values(self, number: int) -> dict[str, np.ndarray]:
        sample = _sample(self._parts, *self._places[number])
        return {name: self._fitted(name, item, sample, number) for name, item in self._columns.items()}

    def _fitted(self, name: str, item: InputColumn, sample: Mapping[str, Any], number: int) -> np.ndarray:
        kind, shape = self.kinds[name], self._shapes[name]
        values = self._as(self._array(sample, name, number), kind, number, item)
        if kind == SEQUENCE and values.shape[1] == shape[1]:
            kept = values[: shape[0]]
            values = np.pad(kept, ((0, shape[0] - len(kept)), (0, 0)))
            if not values.any():
                raise UserError(f"{self._where(number, item)}: nothing but zeros, and steps of zeros are padding")
        if values.shape != shape:
            raise UserError(
                f"{self._where(number, item)}: an array of shape {values.shape}, but the first one has {shape}"
            )
        if values.dtype != self._types[name]:
            raise UserError(
                f"{self._where(number, item)}: {values.dtype}, but the first one is {np.dtype(self._types[name])}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"{self._where(number, item)}: NaN or infinite values")
        return values

    def _longest(self, name: str) -> int:
        item = self._columns[name]
        if item.steps is not None:
            return item.steps
        train = [number for number, row in enumerate(self._rows) if row.split == "train"]
        return max(len(self._array(_sample(self._parts, *self._places[number]), name, number)) for number in train)

    def _array(self, sample: Mapping[str, Any], name: str, number: int) -> np.ndarray:
        item = self._columns[name]
        if item.column not in sample or sample[item.column] is None:
            raise UserError(f"{self._where(number, item)}: nothing")
        value = sample[item.column]
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        is_picture = hasattr(value, "getbands")  # of PIL
        if is_picture:
            value = value.convert("L" if value.mode in ("1", "L", "I", "I;16", "F") else "RGB")
        try:
            values = np.asarray(value)
        except ValueError as error:
            raise UserError(f"{self._where(number, item)}: no array ({error})") from None
        if values.dtype.kind not in "fiu" or not values.size:
            what = (
                f"an empty array, of shape {values.shape}"
                if values.dtype.kind in "fiu"
                else f"{values.dtype}, not numbers"
            )
            raise UserError(f"{self._where(number, item)}: {what}")
        if is_picture:
            return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return values

    def _as(self, values: np.ndarray, kind: str, number: int, item: InputColumn) -> np.ndarray:
        """Return an array as training takes it: float32, or uint8 of pictures, with the dimensions of its kind."""
        if kind in (IMAGE, VIDEO):
            if values.ndim == 2:
                values = values[None]
            if (
                values.dtype == np.uint8
                and values.ndim > 2
                and values.shape[-1] in (1, 3)
                and values.shape[-3] not in (1, 3)
            ):
                values = np.moveaxis(values, -1, -3)  # channels last, as most libraries have pictures
        if kind == SOUND and values.ndim == 2:
            values = values[None]
        wanted = (3, 4) if kind in (IMAGE, VIDEO) else (len(INPUT_KINDS[kind].dimensions),)
        if values.ndim not in wanted:
            shape = INPUT_KINDS[kind].shape_text()
            raise UserError(
                f"{self._where(number, item)}: an array of shape {values.shape}; that of a {kind} is {shape}"
            )
        if values.dtype == np.uint8 and kind in (IMAGE, VIDEO):
            return np.ascontiguousarray(values)
        return np.ascontiguousarray(values, dtype=np.float32)

    def _where(self, number: int, item: InputColumn) -> str:
        return f"split {self._rows[number].split}, sample {self._rows[number].sample!r}, column {item.column}"


def _arrays_folder() -> Path:
    return cache_folder() / "data" / "arrays"


def _guess(name: str, values: np.ndarray, where: str) -> str:
    sound = name.startswith(SOUND_NAMES)
    if values.ndim == 2 and values.dtype == np.uint8:
        return IMAGE
    kinds = {1: VECTOR, 2: SEQUENCE, 3: SOUND if sound else IMAGE, 4: IMAGE}
    if values.ndim not in kinds:
        raise UserError(f"{where}: an array of shape {values.shape}; give one of 1 to 4 dimensions")
    return kinds[values.ndim]


def _spec(kind: str, train: Split, modality: str) -> InputSpec:
    if kind in (VECTOR, SEQUENCE):
        return array_spec(kind, train, modality, torch.arange(len(train)))
    stored = train.inputs[modality]
    rows = None if train.rows is None else train.rows[modality]
    mean, std = channel_statistics(stored, channel=stored.dim() - 3, rows=rows)
    return InputSpec(IMAGE if kind == VIDEO else kind, tuple(stored.shape[1:]), mean, std)


def _version_of(parts: Mapping[str, Any]) -> str | None:
    """Return what identifies the contents of Hugging Face's data sets; None for others."""
    found = [getattr(part, "_fingerprint", None) for part in parts.values()]
    return None if None in found else " ".join(map(str, found))
