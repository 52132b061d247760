"""What every reader gives, and how it becomes a manifest. Standard library only."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from mm_balance.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass
class RawRow:
    """One sample of a raw download.

    Attributes:
        sample: its id.
        split: ``train``, ``val`` or ``test``.
        label: class name.
        files: modality -> path relative to the download, with forward slashes.
        group: what must not be in two splits (speaker, video); empty = nothing.
        extra: further columns of the table of samples.
    """

    sample: str
    split: str
    label: str
    files: dict[str, str]
    group: str = ""
    extra: dict[str, str] = field(default_factory=dict)


@dataclass
class RawSet:
    """A raw download, read.

    Attributes:
        rows: sorted by split, then sample.
        excluded: one line per clip that the data set's own recipe leaves out, with its source.
        missing: one line per listed clip whose files are not there.
        lists: list file -> SHA-256 of its bytes.
        notes: what one should know of the split.
        source_text: where the data come from, in a sentence or two.
    """

    name: str
    protocol: str
    rows: list[RawRow]
    excluded: list[str]
    missing: list[str]
    lists: dict[str, str]
    notes: list[str]
    source_text: str


class Listing:
    """The files of a folder, by one walk instead of a look for each clip: lower-case extension and stem -> path."""

    def __init__(self, root: Path, folders: Iterable[Path], extensions: Iterable[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        wanted = tuple(extensions)
        for folder in folders:
            for place, _, files in os.walk(folder):
                for file in sorted(files):
                    stem, extension = os.path.splitext(file)
                    if extension.lower() in wanted:
                        path = Path(place, file).relative_to(root).as_posix()
                        self._paths.setdefault(stem, []).append(path)

    def __len__(self) -> int:
        return len(self._paths)

    def stems(self) -> list[str]:
        """All names without extension."""
        return list(self._paths)

    def path(self, stem: str) -> str | None:
        """The first file of that name, or None."""
        return self._paths[stem][0] if stem in self._paths else None

    def paths(self, stem: str) -> list[str]:
        """All files of that name."""
        return self._paths.get(stem, [])


def shipped_list(name: str, expected: str) -> tuple[str, str]:
    """Text and SHA-256 of a published list that comes with the package.

    Raises:
        UserError: its hash is not ``expected``: the installation is damaged.
    """
    content = gzip.decompress((resources.files("mm_balance") / "data" / "lists" / f"{name}.gz").read_bytes())
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise UserError(f"the shipped list {name} is damaged (SHA-256 {found[:12]}): install the package again")
    return content.decode("utf-8"), found


def find_folder(source: Path, name: str) -> Path | None:
    """A folder inside ``source`` by its name, whatever the case of its letters."""
    for item in sorted(source.iterdir()):
        if item.is_dir() and item.name.lower() == name.lower():
            return item
    return None


def find_file(source: Path, *names: str) -> Path | None:
    """The first of some files inside ``source``, whatever the case of the last part."""
    for name in names:
        folder = source / Path(name).parent
        if folder.is_dir():
            for item in sorted(folder.iterdir()):
                if item.is_file() and item.name.lower() == Path(name).name.lower():
                    return item
    return None


def read_text(path: Path) -> tuple[str, str]:
    """Text (UTF-8, with or without a byte order mark) and SHA-256 of a file.

    Raises:
        UserError: unreadable, or not UTF-8.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig"), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error


def contents(source: Path) -> str:
    """What a folder holds, for messages."""
    names = sorted(item.name for item in source.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def write_manifest(raw: RawSet, path: Path) -> None:
    """The contract's manifest: same rows, same bytes; replaced in one step.

    Columns: sample, split, label, one per modality, group (where there are groups), then the further ones.
    """
    modalities = list(raw.rows[0].files) if raw.rows else ["audio", "visual"]
    grouped = any(row.group for row in raw.rows)
    extra = list(dict.fromkeys(name for row in raw.rows for name in row.extra))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample", "split", "label", *modalities, *(["group"] if grouped else []), *extra])
    for row in raw.rows:
        writer.writerow(
            [row.sample, row.split, row.label, *(row.files[name] for name in modalities)]
            + ([row.group] if grouped else [])
            + [row.extra.get(name, "") for name in extra]
        )
    partial = path.with_name(f".{path.name}")
    partial.write_text(text.getvalue(), "utf-8")
    os.replace(partial, path)


def in_order(rows: list[RawRow]) -> list[RawRow]:
    """Rows by split and sample."""
    return sorted(rows, key=lambda row: (SPLITS.index(row.split), row.sample))
