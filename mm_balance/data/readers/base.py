"""Common result of all readers, helpers, and writing it as a manifest. Standard library only."""

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

from mm_balance.data.files import DecodeError, open_regular
from mm_balance.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass
class RawRow:
    """One sample of a raw download.

    Attributes:
        sample: sample id.
        split: ``train``, ``val`` or ``test``.
        label: class name.
        files: modality -> path relative to the download, with forward slashes.
        group: entity that must not be in two splits (speaker, video); empty = none.
        extra: additional columns of the manifest.
    """

    sample: str
    split: str
    label: str
    files: dict[str, str]
    group: str = ""
    extra: dict[str, str] = field(default_factory=dict)


@dataclass
class RawSet:
    """Contents of a raw download.

    Attributes:
        rows: sorted by split, then sample.
        excluded: one line per clip excluded by the data set's own recipe, with its source.
        missing: one line per listed clip whose files are missing.
        lists: list file -> SHA-256 of its bytes.
        notes: remarks on the split.
        source_text: origin of the data, in a sentence or two.
    """

    name: str
    protocol: str
    rows: list[RawRow]
    excluded: list[str]
    missing: list[str]
    lists: dict[str, str]
    notes: list[str]
    source_text: str


class FileIndex:
    """Files of some folders by name without extension, from one walk instead of one lookup per clip.

    Paths are relative to ``root``; only the given extensions are indexed, ignoring case.
    """

    def __init__(self, root: Path, folders: Iterable[Path], extensions: Iterable[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        wanted = tuple(extensions)
        for folder in folders:
            for directory, _, files in os.walk(folder):
                for file in sorted(files):
                    stem, extension = os.path.splitext(file)
                    if extension.lower() in wanted:
                        path = Path(directory, file).relative_to(root).as_posix()
                        self._paths.setdefault(stem, []).append(path)

    def __len__(self) -> int:
        return len(self._paths)

    def stems(self) -> list[str]:
        """Return all names without extension."""
        return list(self._paths)

    def path(self, stem: str) -> str | None:
        """Return the first file of that name, or None."""
        return self._paths[stem][0] if stem in self._paths else None

    def paths(self, stem: str) -> list[str]:
        """Return all files of that name."""
        return self._paths.get(stem, [])


def shipped_list(name: str, expected: str) -> tuple[str, str]:
    """Return text and SHA-256 of a published list shipped with the package.

    Raises:
        UserError: the hash is not ``expected``: the installation is damaged.
    """
    content = gzip.decompress((resources.files("mm_balance") / "data" / "lists" / f"{name}.gz").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise UserError(f"the shipped list {name} is damaged (SHA-256 {digest[:12]}): reinstall MM-Balance")
    return content.decode("utf-8"), digest


def find_folder(source: Path, name: str) -> Path | None:
    """Return the folder of that name inside ``source``, ignoring case; None if there is none."""
    for item in sorted(source.iterdir()):
        if item.is_dir() and item.name.lower() == name.lower():
            return item
    return None


def find_file(source: Path, *names: str) -> Path | None:
    """Return the first of ``names`` that is a file inside ``source``, ignoring the case of the last part; None if none is."""
    for name in names:
        folder = source / Path(name).parent
        if folder.is_dir():
            for item in sorted(folder.iterdir()):
                if item.is_file() and item.name.lower() == Path(name).name.lower():
                    return item
    return None


def read_text(path: Path) -> tuple[str, str]:
    """Return text (UTF-8, with or without a byte order mark) and SHA-256 of a file.

    Raises:
        UserError: unreadable, or not UTF-8.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
        return content.decode("utf-8-sig"), hashlib.sha256(content).hexdigest()
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error


def contents(source: Path) -> str:
    """List the contents of a folder, for messages."""
    names = sorted(item.name for item in source.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


def write_manifest(raw: RawSet, path: Path) -> None:
    """Write the manifest atomically; the same rows give the same bytes.

    Columns: sample, split, label, one per modality, group (if there are groups), then the additional ones.
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


def sort_rows(rows: list[RawRow]) -> list[RawRow]:
    """Sort rows by split and sample."""
    return sorted(rows, key=lambda row: (SPLITS.index(row.split), row.sample))
