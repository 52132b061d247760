"""A data set of one's own: ``manifest.csv``, one row per sample, with a column per modality that names a file.

``sample,split,label,audio,visual`` and optionally ``group`` (speaker, source video). UTF-8; paths are relative to the
manifest and may not leave its folder. Every bad row is named with its line and reason before any training.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import torch
from torch import Tensor
from tqdm import tqdm

from mm_balance.data.dataset import MultimodalData, Split, channel_statistics
from mm_balance.data.decode import (
    IMAGE_EXTENSIONS,
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Undecodable,
    decode_image,
    decode_sound,
    log_mel,
)
from mm_balance.errors import UserError
from mm_balance.types import InputSpec

VERSION = "manifest-1"
SPLITS = ("train", "val", "test")
REQUIRED = ("sample", "split", "label")
GROUP = "group"
KINDS = {**dict.fromkeys(SOUND_EXTENSIONS, "sound"), **dict.fromkeys(IMAGE_EXTENSIONS, "image")}
RATE, WINDOW, HOP, BANDS = 16_000, 512, 256, 64
"""Sounds: 32 ms windows every 16 ms, so that 3 s give 64 x 188, an image-like shape for a ResNet."""
VAL_SHARE = 0.1
SHOWN = 5
"""Bad rows that an error message lists."""


@dataclass
class _Row:
    line: int
    sample: str
    split: str
    label: str
    group: str
    files: dict[str, str]
    hashes: list[str] = field(default_factory=list)


class _Rejected:
    """The bad rows so far, with their reasons."""

    def __init__(self) -> None:
        self._reasons: list[tuple[int, str]] = []

    def add(self, row: _Row, reason: str, file: str = "") -> None:
        place = f"line {row.line}, sample {row.sample!r}"
        self._reasons.append((row.line, f"{place}, file {file!r}: {reason}" if file else f"{place}: {reason}"))

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


def load_manifest(
    path: Path,
    *,
    modalities: Sequence[str] = ("audio", "visual"),
    seed: int = 0,
    on_error: str = "fail",
    image_size: int = 224,
    clip_seconds: float = 3.0,
    progress: bool = True,
) -> MultimodalData:
    """Read, check and decode the data set that a manifest describes.

    A modality is sound (WAV, FLAC, OGG) or image (PNG, JPEG) by the extension of its files. Sounds become
    ``(1, 64, frames)`` float32 log-mel spectrograms, ``frames = 1 + clip_seconds * 16000 // 256``; images
    ``(3, image_size, image_size)`` uint8. Without rows of split ``val``, a stratified tenth of train becomes it; groups
    stay together.

    Args:
        path: the manifest.
        modalities: the columns to read; the first one leads the gap.
        seed: of the choice of validation samples, where there are none.
        on_error: ``fail`` stops at bad rows; ``skip`` drops them and keeps their reasons in ``skipped``.
        image_size: edge of the images, pixels.
        clip_seconds: length of the sounds, seconds; shorter ones are repeated, longer ones cut.
        progress: show a progress bar.

    Raises:
        UserError: the manifest cannot be read; a bad row under ``fail``; a group in two splits; one class or an empty
            split (after skipping).
    """
    rejected = _Rejected()
    rows = _read_rows(path, modalities, rejected)
    rows = _drop_unknown_labels(rows, rejected)
    rows = _drop_bad_files(path.parent, rows, modalities, rejected)
    rejected.stop_if_any(path, on_error)
    _check_groups(path, rows)
    if not any(row.split == "val" for row in rows):
        _carve_validation(path, rows, seed)
    _check_enough(path, rows)
    rows.sort(key=lambda row: SPLITS.index(row.split))
    kinds = {name: _kind(rows[0].files[name]) for name in modalities}
    values, rows = _decode(path.parent, rows, kinds, rejected, image_size, clip_seconds, progress)
    # Again: dropping undecodable files can empty a class or a split.
    kept = _drop_unknown_labels(rows, rejected)
    rejected.stop_if_any(path, on_error)
    _check_enough(path, kept)
    classes = tuple(sorted({row.label for row in kept}))
    places = {row.sample: place for place, row in enumerate(rows)}
    splits = {}
    for name in SPLITS:
        members = [row for row in kept if row.split == name]
        splits[name] = _split(name, members, [places[row.sample] for row in members], values, classes)
    recipe = _recipe(kinds, image_size, clip_seconds)
    skipped = rejected.lines()
    return MultimodalData(
        name=path.parent.resolve().name if path.stem == "manifest" else path.stem,
        classes=classes,
        specs=_specs(splits["train"], kinds),
        splits=splits,
        digest=_digest(kept, modalities, recipe),
        recipe=recipe,
        truth_known=False,
        counts={**{name: len(split) for name, split in splits.items()}, "skipped": len(skipped)},
        source=f"Manifest {path.name} in the folder {path.parent.resolve().name}.",
        skipped=skipped,
    )


def _read_rows(path: Path, modalities: Sequence[str], rejected: _Rejected) -> list[_Row]:
    """Rows whose cells are in order. Raises UserError where the table as a whole is not."""
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
    rows: list[_Row] = []
    seen: dict[str, int] = {}
    for line, cells in table:
        named = dict(zip(header, cells, strict=False))
        sample, split, label, group = (named.get(name, "").strip() for name in (*REQUIRED, GROUP))
        row = _Row(line, sample, split, label, group, {name: named.get(name, "") for name in modalities})
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


def _drop_unknown_labels(rows: list[_Row], rejected: _Rejected) -> list[_Row]:
    """Rows whose label occurs in the train split."""
    known = {row.label for row in rows if row.split == "train"}
    for row in rows:
        if row.label not in known:
            rejected.add(row, f"label {row.label!r} does not occur in the train split")
    return [row for row in rows if row.label in known]


def _check_enough(path: Path, rows: list[_Row]) -> None:
    for name in SPLITS:
        if not any(row.split == name for row in rows):
            raise UserError(f"{path}: no usable rows of split {name}; every split needs samples")
    if len(classes := {row.label for row in rows}) < 2:
        raise UserError(f"{path}: all rows have the label {classes.pop()!r}; training needs at least two classes")


def _drop_bad_files(root: Path, rows: list[_Row], modalities: Sequence[str], rejected: _Rejected) -> list[_Row]:
    """Rows whose files exist inside the manifest's folder and are of the kind that their column holds."""
    majority = {}
    for name in modalities:
        found = Counter(kind for row in rows if (kind := _kind(row.files[name])))
        majority[name] = found.most_common(1)[0][0] if found else ""
    folder = root.resolve()
    good = []
    for row in rows:
        for name, file in row.files.items():
            if reason := _why_unusable(folder, name, file, majority[name]):
                rejected.add(row, reason, file)
                break
        else:
            good.append(row)
    return good


def _kind(file: str) -> str:
    """``sound``, ``image`` or, for other extensions, nothing."""
    return KINDS.get(Path(file).suffix.lower(), "")


def _why_unusable(folder: Path, modality: str, file: str, majority: str) -> str:
    """What is wrong with a file before it is opened; nothing if all is well."""
    if "\0" in file:
        return "the path holds a NUL character"
    if Path(file).is_absolute() or PureWindowsPath(file).is_absolute():
        return "the path is absolute; paths are relative to the manifest"
    try:
        target = (folder / file).resolve()
    except (OSError, RuntimeError) as error:  # a symbolic link that points to itself
        return f"the path cannot be followed ({error})"
    if not target.is_relative_to(folder):
        return "the path leaves the folder of the manifest"
    if not target.exists():
        return "no such file"
    if target.is_dir():
        return "is a folder; folders of frames come with a later version, give one image for now"
    extension = Path(file).suffix.lower()
    if extension in VIDEO_EXTENSIONS:
        return f"{extension} is video, which comes with a later version; give its sound as WAV and a frame as JPEG"
    if extension not in KINDS:
        return f"extension {extension!r} is not supported, only {', '.join(KINDS)}"
    if KINDS[extension] != majority:
        return f"holds {KINDS[extension]}, but column {modality} holds {majority}"
    if target.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    return ""


def _check_groups(path: Path, rows: list[_Row]) -> None:
    """A speaker or source video in two splits would let a model score by recognising it."""
    found: dict[str, _Row] = {}
    for row in rows:
        if not row.group:
            continue
        first = found.setdefault(row.group, row)
        if first.split != row.split:
            raise UserError(
                f"{path}: group {row.group!r} is in {first.split} (line {first.line}) and in {row.split} (line "
                f"{row.line}); a group belongs to one split"
            )


def _carve_validation(path: Path, rows: list[_Row], seed: int) -> None:
    """Move a stratified tenth of train to val, in place; whole groups, and never the last training sample of a class.

    Groups are visited in a random order and taken where that leaves the class counts no further from a tenth. A row
    without a group is a group of its own.
    """
    train = sorted((row for row in rows if row.split == "train"), key=lambda row: row.sample)
    left = Counter(row.label for row in train)
    missing = {label: max(1, round(VAL_SHARE * count)) if count > 1 else 0 for label, count in left.items()}
    groups: dict[tuple[str, str], list[_Row]] = defaultdict(list)
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


def _decode(
    root: Path,
    rows: list[_Row],
    kinds: dict[str, str],
    rejected: _Rejected,
    image_size: int,
    clip_seconds: float,
    progress: bool,
) -> tuple[dict[str, Tensor], list[_Row]]:
    """Hash and decode every file: modality -> ``(good rows, ...)``, and the good rows."""
    samples = max(1, round(clip_seconds * RATE))
    # One block per modality, filled in place: a list of tensors and then a stack would need the memory twice.
    shapes = {"image": (3, image_size, image_size), "sound": (1, BANDS, 1 + samples // HOP)}
    types = {"image": torch.uint8, "sound": torch.float32}
    values = {name: torch.empty((len(rows), *shapes[kind]), dtype=types[kind]) for name, kind in kinds.items()}
    good: list[_Row] = []
    for row in tqdm(rows, desc="decoding", unit="sample", disable=not progress):
        for name, kind in kinds.items():
            try:
                content = (root / row.files[name]).read_bytes()
                if kind == "image":
                    values[name][len(good)] = decode_image(content, size=image_size)
                else:
                    audio = decode_sound(content, rate=RATE, samples=samples)
                    values[name][len(good)] = log_mel(
                        audio.unsqueeze(0), rate=RATE, window=WINDOW, hop=HOP, bands=BANDS
                    ).squeeze(0)
            except Undecodable as error:
                rejected.add(row, str(error), row.files[name])
                break
            except OSError as error:
                rejected.add(row, f"cannot be read ({error.strerror or error})", row.files[name])
                break
            row.hashes.append(hashlib.sha256(content).hexdigest())
        else:
            good.append(row)
    return {name: value[: len(good)] for name, value in values.items()}, good


def _split(
    name: str, rows: list[_Row], places: list[int], values: dict[str, Tensor], classes: tuple[str, ...]
) -> Split:
    first, last = places[0], places[-1]
    # Rows are ordered by split, so a slice of the decoded block nearly always does, and a slice needs no more memory.
    chosen = slice(first, last + 1) if last - first + 1 == len(places) else places
    return Split(
        name,
        {modality: value[chosen] for modality, value in values.items()},
        torch.tensor([classes.index(row.label) for row in rows]),
        [row.sample for row in rows],
        [""] * len(rows),
        [""] * len(rows),
    )


def _specs(train: Split, kinds: dict[str, str]) -> dict[str, InputSpec]:
    specs = {}
    for name, value in train.inputs.items():
        mean, std = channel_statistics(value, channel=1)
        specs[name] = InputSpec(kinds[name], tuple(value.shape[1:]), mean, std)
    return specs


def _recipe(kinds: dict[str, str], image_size: int, clip_seconds: float) -> str:
    words = {
        "sound": f"mono, {RATE} Hz, repeated or cut to {clip_seconds:g} s, {BANDS} log-mel bands, window {WINDOW}, "
        f"hop {HOP}",
        "image": f"RGB, squeezed to {image_size} x {image_size}, bilinear with antialiasing",
    }
    return f"{VERSION}: " + "; ".join(f"{name} {words[kind]}" for name, kind in kinds.items())


def _digest(rows: list[_Row], modalities: Sequence[str], recipe: str) -> str:
    """SHA-256 of what the samples are, whatever the order of the rows and the names of the files."""
    lines = sorted([row.sample, row.split, row.label, *row.hashes] for row in rows)
    return hashlib.sha256(json.dumps([recipe, list(modalities), lines]).encode()).hexdigest()
