"""The table of a data set: ``manifest.csv``, one row per sample, with a column per modality that names a file.

``sample,split,label,audio,visual`` and optionally ``group`` (speaker, source video). UTF-8; paths are relative to the
manifest and may not leave its folder. Every bad row is named with its line and reason before any training.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import torch

from mm_balance.data.frames import IMAGE_EXTENSIONS
from mm_balance.data.journal import Clip, identify
from mm_balance.data.recipe import PICTURE, SOUND
from mm_balance.data.sound import SOUND_EXTENSIONS, VIDEO_EXTENSIONS
from mm_balance.errors import UserError

SPLITS = ("train", "val", "test")
REQUIRED = ("sample", "split", "label")
GROUP = "group"
HEARD = ("audio", "sound", "speech", "voice")
"""A column of videos is listened to if its name begins so, else looked at."""
VAL_SHARE = 0.1
SHOWN = 5
"""Bad rows that an error message lists."""


@dataclass
class Row:
    """One line of a manifest; ``files`` by modality, ``extra`` by further column."""

    line: int
    sample: str
    split: str
    label: str
    group: str
    files: dict[str, str]
    extra: dict[str, str]


class RowErrors:
    """The bad rows so far, with their reasons."""

    def __init__(self) -> None:
        self._reasons: list[tuple[int, str]] = []

    def add(self, row: Row, reason: str, file: str = "") -> None:
        place = f"line {row.line}, sample {row.sample!r}"
        self._reasons.append((row.line, f"{place}, file {file!r}: {reason}" if file else f"{place}: {reason}"))

    def say(self, line: str) -> None:
        """A clip that has no row, in words of its own."""
        self._reasons.append((0, line))

    def lines(self) -> list[str]:
        """One line of text per bad row, in the order of the manifest."""
        return [reason for _, reason in sorted(self._reasons)]

    def stop_if_any(self, path: Path, on_error: str) -> None:
        lines = self.lines()
        if not lines or on_error == "skip":
            return
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise UserError(
            f"{path}: {len(lines)} bad row(s): {'; '.join(lines[:SHOWN])}{more} (put them right, or drop them with "
            "on_error=skip)"
        )


def read_rows(path: Path, modalities: Sequence[str], rejected: RowErrors) -> list[Row]:
    """Rows whose cells are in order.

    Raises:
        UserError: the table as a whole is not: unreadable, not UTF-8, no CSV, columns missing or twice, or no rows.
    """
    wanted = [*REQUIRED, *modalities]
    if not modalities or len(set(wanted)) < len(wanted) or GROUP in modalities:
        raise UserError(f"modalities={','.join(modalities)}: give columns of the manifest that hold files, each once")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header, wanted)
            table = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not CSV ({error})") from error
    if not table:
        raise UserError(f"{path}: no rows below the header")
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for line, cells in table:
        named = dict(zip(header, cells, strict=False))
        sample, split, label, group = (named.get(name, "").strip() for name in (*REQUIRED, GROUP))
        extra = {name: cell for name, cell in named.items() if name and name not in (*wanted, GROUP)}
        row = Row(line, sample, split, label, group, {name: named.get(name, "") for name in modalities}, extra)
        if len(cells) != len(header):
            rejected.add(row, f"{len(cells)} cells where the header has {len(header)}")
        elif empty := [name for name in wanted if not named[name].strip()]:
            rejected.add(row, f"nothing in column {', '.join(empty)}")
        elif row.split not in SPLITS:
            rejected.add(row, f"split {row.split!r} is none of {', '.join(SPLITS)}")
        elif row.sample in seen:
            rejected.add(row, f"the same sample id is on line {seen[row.sample]}")
        else:
            seen[row.sample] = line
            rows.append(row)
    return rows


def _check_header(path: Path, header: list[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in header]:
        found = ", ".join(header) or "nothing"
        raise UserError(f"{path}: missing column(s) {', '.join(missing)}; the header has {found}")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{path}: column(s) {', '.join(map(repr, twice))} occur more than once in the header")


def drop_unknown_labels(rows: list[Row], rejected: RowErrors) -> list[Row]:
    """Rows whose label occurs in the train split."""
    known = {row.label for row in rows if row.split == "train"}
    for row in rows:
        if row.label not in known:
            rejected.add(row, f"label {row.label!r} does not occur in the train split")
    return [row for row in rows if row.label in known]


def check_enough(path: Path, rows: list[Row]) -> None:
    """Raises UserError where a split is empty or there is one class only."""
    for name in SPLITS:
        if not any(row.split == name for row in rows):
            raise UserError(f"{path}: no usable rows of split {name}; every split needs samples")
    if len(classes := {row.label for row in rows}) < 2:
        raise UserError(f"{path}: all rows have the label {classes.pop()!r}; training needs at least two classes")


@dataclass(frozen=True)
class Columns:
    """What the modalities of a manifest hold.

    Attributes:
        kinds: modality -> ``sound`` or ``image``.
        moving: modality -> whether it has videos or folders of frames.
    """

    kinds: dict[str, str]
    moving: dict[str, bool]


def find_files(
    root: Path, rows: list[Row], modalities: Sequence[str], rejected: RowErrors
) -> tuple[list[Row], Columns, dict[str, Clip]]:
    """Rows whose files exist inside ``root`` and are of the kind that their column holds.

    Returns:
        The good rows, what the columns hold, and per sample the clip to decode.
    """
    folder = root.resolve()
    kinds = {name: _majority(folder, name, [row.files[name] for row in rows]) for name in modalities}
    moving = dict.fromkeys(modalities, False)
    good, clips = [], {}
    for row in rows:
        for name, file in row.files.items():
            if reason := _why_unusable(folder, name, file, kinds[name]):
                rejected.add(row, reason, file)
                break
        else:
            paths = {name: (folder / file) for name, file in row.files.items()}
            try:
                clips[row.sample] = identify(row.sample, paths, row.files)
            except OSError as error:
                rejected.add(row, f"cannot be read ({error.strerror or error})", error.filename or "")
                continue
            good.append(row)
            for name, path in paths.items():
                moving[name] |= kinds[name] == PICTURE and path.suffix.lower() not in IMAGE_EXTENSIONS
    return good, Columns(kinds, moving), clips


def _majority(folder: Path, modality: str, files: list[str]) -> str:
    """What a column holds: by its files, and where all are videos by its name."""
    found = Counter(kinds[0] for file in files if len(kinds := _kinds(folder, file)) == 1)
    if found:
        return found.most_common(1)[0][0]
    return SOUND if modality.startswith(HEARD) else PICTURE


def _kinds(folder: Path, file: str) -> tuple[str, ...]:
    """What can be made of a file: a video is both heard and seen; nothing for an unknown extension."""
    extension = Path(file).suffix.lower()
    if extension in VIDEO_EXTENSIONS:
        return (SOUND, PICTURE)
    if extension in SOUND_EXTENSIONS:
        return (SOUND,)
    if extension in IMAGE_EXTENSIONS or ("\0" not in file and (folder / file).is_dir()):
        return (PICTURE,)
    return ()


def _why_unusable(folder: Path, modality: str, file: str, kind: str) -> str:
    """What is wrong with a file before it is opened; nothing if all is well."""
    if "\0" in file:
        return "the path holds a NUL character"
    if Path(file).is_absolute() or PureWindowsPath(file).is_absolute():
        return "the path is absolute; paths are relative to the manifest"
    try:
        target = (folder / file).resolve()
        exists, is_folder = target.exists(), target.is_dir()
    except (OSError, RuntimeError) as error:  # a symbolic link that points to itself, or a name that is too long
        return f"the path cannot be followed ({error})"
    if not target.is_relative_to(folder):
        return "the path leaves the folder of the manifest"
    if not exists:
        return "no such file"
    able = _kinds(folder, file)
    if not able:
        known = ", ".join((*SOUND_EXTENSIONS, *IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS))
        return f"extension {Path(file).suffix.lower()!r} is not supported, only {known}, or a folder of frames"
    if kind not in able:
        return f"holds {able[0]}, but column {modality} holds {kind}"
    if not is_folder and target.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    return ""


def check_groups(path: Path, rows: list[Row]) -> None:
    """A speaker or source video in two splits would let a model score by recognizing it."""
    found: dict[str, Row] = {}
    for row in rows:
        if not row.group:
            continue
        first = found.setdefault(row.group, row)
        if first.split != row.split:
            raise UserError(
                f"{path}: group {row.group!r} is in {first.split} (line {first.line}) and in {row.split} (line "
                f"{row.line}); a group belongs to one split"
            )


def split_off_validation(path: Path, rows: list[Row], seed: int) -> None:
    """Move a stratified tenth of train to val, in place; whole groups, and never the last training sample of a class.

    Groups are visited in a random order and taken where that leaves the class counts no further from a tenth. A row
    without a group is a group of its own.
    """
    train = sorted((row for row in rows if row.split == "train"), key=lambda row: row.sample)
    left = Counter(row.label for row in train)
    missing = {label: max(1, round(VAL_SHARE * count)) if count > 1 else 0 for label, count in left.items()}
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in train:
        groups[("group", row.group) if row.group else ("sample", row.sample)].append(row)
    members = list(groups.values())
    for place in torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist():
        counts = Counter(row.label for row in members[place])
        no_further = sum(abs(missing[label]) - abs(missing[label] - count) for label, count in counts.items()) >= 0
        if no_further and all(left[label] > count for label, count in counts.items()):
            left.subtract(counts)
            for label, count in counts.items():
                missing[label] -= count
            for row in members[place]:
                row.split = "val"
    if train and not any(row.split == "val" for row in train):
        raise UserError(
            f"{path}: no rows of split val, and none can be taken from train (too few samples per class, or groups too "
            "large); give rows of split val"
        )
