"""Reading and checking ``manifest.csv``: one row per sample, with one file column per modality.

Columns: ``sample,split,label,audio,visual`` and optionally ``group`` (speaker, source video). UTF-8. Paths are relative to the
manifest and, unless the user allows it, do not leave its folder. Every bad row is reported with its line and reason before any
training.
"""

from __future__ import annotations

import csv
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path, PureWindowsPath

import torch

from mm_balance.data.files import DecodeError, open_regular, why_not_regular
from mm_balance.data.frames import IMAGE_EXTENSIONS
from mm_balance.data.journal import Clip, identify
from mm_balance.data.npy import ARRAY_EXTENSIONS, ArrayFacts, array_facts, why_different
from mm_balance.data.sound import SOUND_EXTENSIONS, VIDEO_EXTENSIONS
from mm_balance.data.suspicions import hidden_character, labels_alike
from mm_balance.errors import NEEDS_CLASSES, NO_TRUE_CLASS, UserError
from mm_balance.input_kinds import IMAGE, SEQUENCE, SOUND

SPLITS = ("train", "val", "test")
REQUIRED = ("sample", "split", "label")
GROUP = "group"
SOUND_NAMES = ("audio", "sound", "speech", "voice")
"""A column of videos is a sound modality if its name starts with one of these, otherwise an image modality."""
ARRAY = "array"
"""Vector or sequence: which of them is in the file, not in its name."""
SEPARATORS = ("|", ";", ",", "+", "/", "&")
"""What may stand between several classes of a sample."""
ONE_CLASS_EACH = (
    "every sample has exactly one true class; if the classes exclude each other, give them as names or numbers, not as lists or "
    "vectors, and without label_separator"
)
VAL_SHARE = 0.1
OR_ALLOW = "or allow this with allow_outside=true"
SHOWN = 5
"""Maximum number of bad rows in an error message."""


@dataclass
class Row:
    """One line of a manifest; ``files`` by modality, ``extra`` by additional column.

    ``several`` are the true classes of a sample that may have more than one, which ``label`` then shows; else None.
    """

    line: int
    sample: str
    split: str
    label: str
    group: str
    files: dict[str, str]
    extra: dict[str, str]
    several: tuple[str, ...] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The true class, or the true classes."""
        return (self.label,) if self.several is None else self.several


class RowErrors:
    """Collected errors of bad rows."""

    def __init__(self) -> None:
        self._reasons: list[tuple[int, str]] = []

    def add(self, row: Row, reason: str, file: str = "") -> None:
        location = f"line {row.line}, sample {row.sample!r}"
        self._reasons.append((row.line, f"{location}, file {file!r}: {reason}" if file else f"{location}: {reason}"))

    def add_message(self, message: str) -> None:
        """Add a ready-made message about a clip that has no row."""
        self._reasons.append((0, message))

    def lines(self) -> list[str]:
        """Return one line of text per bad row, in manifest order."""
        return [reason for _, reason in sorted(self._reasons)]

    def raise_if_any(self, path: Path, on_error: str) -> None:
        lines = self.lines()
        if not lines or on_error == "skip":
            return
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise UserError(
            f"{path}: {len(lines)} bad row(s): {'; '.join(lines[:SHOWN])}{more} (fix them, or drop them with "
            "on_error=skip)"
        )


def read_rows(
    path: Path, modalities: Sequence[str], rejected: RowErrors, *, label_separator: str | None = None
) -> list[Row]:
    """Read the rows of a manifest; rows with bad cells go to ``rejected``.

    Args:
        path: the manifest.
        modalities: columns of files.
        rejected: takes the bad rows.
        label_separator: what separates the classes of a sample in the column ``label``; None = each has one.

    Raises:
        UserError: the table itself is invalid: unreadable, not UTF-8, not CSV, missing or duplicate columns, or no rows.
    """
    wanted = [*REQUIRED, *modalities]
    if not modalities or len(set(wanted)) < len(wanted) or GROUP in modalities:
        raise UserError(f"modalities={','.join(modalities)}: use file columns of the manifest, each once")
    try:
        with open_regular(path) as content:
            reader = csv.reader(TextIOWrapper(content, encoding="utf-8-sig", newline=""))
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, wanted)
            table = [(reader.line_num, cells) for cells in reader if cells]
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not CSV ({error})") from error
    if not table:
        raise UserError(f"{path}: no rows below the header")
    rows: list[Row] = []
    line_of_sample: dict[str, int] = {}
    for line, cells in table:
        values = dict(zip(header, cells, strict=False))
        sample, split, label, group = (values.get(name, "").strip() for name in (*REQUIRED, GROUP))
        extra = {name: cell for name, cell in values.items() if name and name not in (*wanted, GROUP)}
        row = Row(line, sample, split, label, group, {name: values.get(name, "") for name in modalities}, extra)
        if label_separator is not None:
            row.several = tuple(name.strip() for name in label.split(label_separator))
            row.label = ", ".join(row.several)
        if len(cells) != len(header):
            rejected.add(row, f"{len(cells)} cells where the header has {len(header)}")
        elif empty := [name for name in wanted if not values[name].strip()]:
            rejected.add(row, f"nothing in column {', '.join(empty)}")
        elif hidden := hidden_character(sample) or hidden_character(label) or hidden_character(group):
            rejected.add(row, f"its sample id, label or group contains the invisible character {hidden}; remove it")
        elif reason := several_classes_fault(row.classes):
            rejected.add(row, f"label {label!r}: {reason}")
        elif row.split not in SPLITS:
            rejected.add(row, f"split {row.split!r} is not one of {', '.join(SPLITS)}")
        elif row.sample in line_of_sample:
            rejected.add(row, f"the same sample id is on line {line_of_sample[row.sample]}")
        else:
            line_of_sample[row.sample] = line
            rows.append(row)
    return rows


def _check_header(path: Path, header: list[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in header]:
        columns = ", ".join(header) or "nothing"
        raise UserError(f"{path}: missing column(s) {', '.join(missing)}; the header has {columns}")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{path}: column(s) {', '.join(map(repr, twice))} occur more than once in the header")


def several_classes_fault(classes: Sequence[str]) -> str:
    """Return what is wrong with the true classes of a sample; empty = nothing."""
    if not classes:
        return NO_TRUE_CLASS
    if not all(classes):
        return "an empty class; remove the separator that is too many"
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        return f"class {twice[0]!r} occurs twice"
    return ""


def label_tensor(rows: Sequence[Row], classes: Sequence[str]) -> torch.Tensor:
    """Return the labels of rows: ``(rows,)`` int64, or multi-hot, ``(rows, classes)`` bool, where they may have several classes."""
    number = {name: place for place, name in enumerate(classes)}
    if all(row.several is None for row in rows):
        return torch.tensor([number[row.label] for row in rows])
    labels = torch.zeros(len(rows), len(classes), dtype=torch.bool)
    for place, row in enumerate(rows):
        labels[place, [number[name] for name in row.classes]] = True
    return labels


def drop_unknown_labels(rows: list[Row], rejected: RowErrors) -> list[Row]:
    """Return the rows whose classes all occur in the train split; the others go to ``rejected``."""
    known = {name for row in rows if row.split == "train" for name in row.classes}
    kept = []
    for row in rows:
        if unknown := [name for name in row.classes if name not in known]:
            rejected.add(row, f"label {unknown[0]!r} does not occur in the train split")
        else:
            kept.append(row)
    return kept


def check_labels(path: Path, rows: list[Row]) -> list[str]:
    """Return warnings for labels that differ by case only, or that look like several in one.

    Raises:
        UserError: two labels look the same, but are not.
    """
    warnings = []
    first: dict[str, Row] = {}
    for row in rows:
        for name in row.classes:
            first.setdefault(name, row)
    for one, other, same in labels_alike(first):
        where = f"{one!r} (line {first[one].line}) and {other!r} (line {first[other].line})"
        if same:
            raise UserError(
                f"{path}: the labels {where} look the same but are not ({one!a}, {other!a}): they would be two classes; "
                "write one as the other"
            )
        warnings.append(f"the labels {where} differ by case only and are two classes")
    return [*warnings, *_several_in_one(rows, first)]


def _several_in_one(rows: list[Row], labels: Mapping[str, Row]) -> list[str]:
    """Return a warning if labels look like several classes in one text, or if each sample has one class where it may have several."""
    if rows and all(row.several is not None for row in rows):
        return [ONE_CLASS_EACH] if all(len(row.classes) == 1 for row in rows) else []
    for label, row in labels.items():
        for separator in SEPARATORS:
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and all(part in labels for part in parts):
                return [
                    f"the label {label!r} (line {row.line}) is a class of its own, beside {' and '.join(map(repr, parts))}; if "
                    f"samples may have several classes, give label_separator={separator}, or lists of classes in Python"
                ]
    return []


def refuse_fractions(path: Path, rows: Iterable[Row], remedy: str = "") -> None:
    """Refuse targets of a regression: raise UserError if all labels are finite numbers, and some have a fraction.

    Args:
        path: the manifest.
        rows: its rows.
        remedy: what else to do if the numbers are names of classes.
    """
    strange = None
    for row in rows:
        try:
            value = float(row.label)
        except ValueError:
            return
        if not math.isfinite(value):
            return
        if strange is None and not value.is_integer():
            strange = row
    if strange is not None:
        raise UserError(
            f"{path}: the labels are numbers with fractions, as {strange.label!r} of sample {strange.sample!r}, not classes; if they "
            f"are names of classes, write them with a letter, as 'class {strange.label}'{remedy}. {NEEDS_CLASSES}"
        )


def check_enough(path: Path, rows: list[Row]) -> None:
    """Raise UserError if a split is empty or there is only one class."""
    for name in SPLITS:
        if not any(row.split == name for row in rows):
            raise UserError(f"{path}: no usable rows of split {name}; every split needs samples")
    if len(classes := {name for row in rows for name in row.classes}) < 2:
        raise UserError(f"{path}: all rows have the label {classes.pop()!r}; training needs at least two classes")


@dataclass(frozen=True)
class Columns:
    """Contents of the modality columns of a manifest.

    Attributes:
        kinds: modality -> ``sound``, ``image``, ``vector`` or ``sequence``.
        is_video: modality -> whether it has videos or folders of frames.
        shapes: modality -> shape of its stored arrays, of vectors and sequences.
    """

    kinds: dict[str, str]
    is_video: dict[str, bool]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def find_files(
    root: Path,
    rows: list[Row],
    modalities: Sequence[str],
    rejected: RowErrors,
    *,
    allow_outside: bool = False,
    sequence_steps: int | None = None,
) -> tuple[list[Row], Columns, dict[str, Clip]]:
    """Check that the files of each row exist and match the kind of their column; bad rows go to ``rejected``.

    Args:
        root: folder that paths are relative to.
        rows: rows to check.
        modalities: columns of files.
        rejected: takes the bad rows.
        allow_outside: whether paths may be absolute, and paths and symbolic links may leave ``root``.
        sequence_steps: steps that are kept of a sequence; None = those of the longest one in train.

    Returns:
        The good rows, the contents of the columns, and the clip to decode per sample.
    """
    folder = root.resolve()
    kinds = {name: _column_kind(folder, name, [row.files[name] for row in rows]) for name in modalities}
    usable = []
    for row in rows:
        for name, file in row.files.items():
            if reason := _why_unusable(folder, name, file, kinds[name], allow_outside):
                rejected.add(row, reason, file)
                break
        else:
            usable.append(row)
    shapes = {}
    for name in [name for name, kind in kinds.items() if kind == ARRAY]:
        usable, kinds[name], shapes[name] = _array_column(folder, name, usable, rejected, sequence_steps)
    is_video = dict.fromkeys(modalities, False)
    good, clips = [], {}
    for row in usable:
        paths = {name: (folder / file) for name, file in row.files.items()}
        try:
            clips[row.sample] = identify(row.sample, paths, row.files)
        except OSError as error:
            rejected.add(row, f"cannot be read ({error.strerror or error})", error.filename or "")
            continue
        good.append(row)
        for name, path in paths.items():
            is_video[name] |= kinds[name] == IMAGE and path.suffix.lower() not in IMAGE_EXTENSIONS
    return good, Columns(kinds, is_video, shapes), clips


def _array_column(
    folder: Path, modality: str, rows: list[Row], rejected: RowErrors, sequence_steps: int | None
) -> tuple[list[Row], str, tuple[int, ...]]:
    """Decide what a column of arrays contains: kind and number of features that most of its files have.

    Returns:
        The rows whose array is of that kind and size, the kind, and the shape of a stored array.
    """
    found: dict[str, ArrayFacts] = {}
    for row in rows:
        try:
            found[row.sample] = array_facts(folder / row.files[modality])
        except DecodeError as error:
            rejected.add(row, str(error), row.files[modality])
        except OSError as error:
            rejected.add(row, f"cannot be read ({error.strerror or error})", row.files[modality])
    if not found:
        return [], SEQUENCE, (1, 1)  # an error in any case: no rows are left
    (kind, features), _ = Counter((facts.kind, facts.features) for facts in found.values()).most_common(1)[0]
    good = []
    for row in rows:
        if row.sample not in found:
            continue
        if reason := why_different(found[row.sample], kind, features):
            rejected.add(row, f"{reason}, as most files of column {modality} have it", row.files[modality])
        else:
            good.append(row)
    if kind != SEQUENCE:
        return good, kind, (features,)
    lengths = [found[row.sample].steps for row in good if row.split == "train"]
    return good, kind, (sequence_steps or max(lengths, default=1), features)


def _column_kind(folder: Path, modality: str, files: list[str]) -> str:
    """Return the kind of a column: the most common one of its files, or by its name if all are videos."""
    counts = Counter(kinds[0] for file in files if len(kinds := _kinds(folder, file)) == 1)
    if counts:
        return counts.most_common(1)[0][0]
    return SOUND if modality.startswith(SOUND_NAMES) else IMAGE


def _kinds(folder: Path, file: str) -> tuple[str, ...]:
    """Return the kinds a file can be used as: both for a video, none for an unknown extension."""
    extension = Path(file).suffix.lower()
    if extension in VIDEO_EXTENSIONS:
        return (SOUND, IMAGE)
    if extension in SOUND_EXTENSIONS:
        return (SOUND,)
    if extension in ARRAY_EXTENSIONS:
        return (ARRAY,)
    # Unlike Path.is_dir, this has no errors for impossible names.
    if extension in IMAGE_EXTENSIONS or os.path.isdir(folder / file):
        return (IMAGE,)
    return ()


def _why_unusable(folder: Path, modality: str, file: str, kind: str, allow_outside: bool) -> str:
    """Return why a file cannot be used, without opening it; empty = it can."""
    if "\0" in file:
        return "the path contains a NUL character"
    if not allow_outside and (Path(file).is_absolute() or PureWindowsPath(file).is_absolute()):
        return f"the path is absolute; use a path relative to the manifest, {OR_ALLOW}"
    try:
        target = (folder / file).resolve()
        if not allow_outside and not target.is_relative_to(folder):
            return f"the path leaves the folder of the manifest; move the file into it, {OR_ALLOW}"
        if not target.exists():
            return "no such file"
        status, is_folder = target.stat(), target.is_dir()
    except (OSError, RuntimeError) as error:  # a symbolic link to itself, or a name that is too long
        return f"the path cannot be followed ({error})"
    usable_as = _kinds(folder, file)
    if not usable_as:
        known = ", ".join((*SOUND_EXTENSIONS, *IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS, *ARRAY_EXTENSIONS))
        return f"extension {Path(file).suffix.lower()!r} is not supported; use {known}, or a folder of frames"
    if kind not in usable_as:
        return f"contains {usable_as[0]}, but column {modality} contains {kind}"
    if is_folder:
        return _why_frames_unusable(target, folder, allow_outside)
    if reason := why_not_regular(status):
        return reason
    return "" if status.st_size else "the file is empty (0 bytes)"


def _why_frames_unusable(frames: Path, folder: Path, allow_outside: bool) -> str:
    """Return why a folder of frames cannot be used, without opening its files; empty = it can."""
    try:
        with os.scandir(frames) as found:
            items = sorted(found, key=lambda item: item.name)
        for item in items:
            if item.is_symlink():
                if not os.path.exists(item.path):
                    return f"frame {item.name}: a symbolic link to nothing"
                if not allow_outside and not Path(item.path).resolve().is_relative_to(folder):
                    return f"frame {item.name}: a symbolic link that leaves the folder of the manifest; copy the file, {OR_ALLOW}"
            is_frame = Path(item.name).suffix.lower() in IMAGE_EXTENSIONS
            if is_frame and (reason := why_not_regular(item.stat())):
                return f"frame {item.name}: {reason}"
    except (OSError, RuntimeError) as error:
        return f"the folder cannot be read ({error})"
    return ""


def check_groups(path: Path, rows: list[Row]) -> None:
    """Raise UserError if a group is in two splits: a model could score by recognizing the speaker or source video."""
    first_rows: dict[str, Row] = {}
    for row in rows:
        if not row.group:
            continue
        first = first_rows.setdefault(row.group, row)
        if first.split != row.split:
            raise UserError(
                f"{path}: group {row.group!r} is in {first.split} (line {first.line}) and in {row.split} (line "
                f"{row.line}); a group must be in one split"
            )


def split_off_validation(path: Path, rows: list[Row], seed: int) -> None:
    """Move a stratified tenth of train to val, in place: whole groups, and never the last training sample of a class.

    A sample with several true classes counts in each.

    Groups are visited in random order and moved if that brings the class counts no further from a tenth. A row without a
    group is its own group.
    """
    train = sorted((row for row in rows if row.split == "train"), key=lambda row: row.sample)
    remaining = Counter(name for row in train for name in row.classes)
    wanted = {label: max(1, round(VAL_SHARE * count)) if count > 1 else 0 for label, count in remaining.items()}
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in train:
        groups[("group", row.group) if row.group else ("sample", row.sample)].append(row)
    members = list(groups.values())
    for number in torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist():
        counts = Counter(name for row in members[number] for name in row.classes)
        no_further = sum(abs(wanted[label]) - abs(wanted[label] - count) for label, count in counts.items()) >= 0
        if no_further and all(remaining[label] > count for label, count in counts.items()):
            remaining.subtract(counts)
            for label, count in counts.items():
                wanted[label] -= count
            for row in members[number]:
                row.split = "val"
    if train and not any(row.split == "val" for row in train):
        raise UserError(
            f"{path}: no rows of split val, and none can be taken from train (too few samples per class, or groups too "
            "large); add rows of split val"
        )
