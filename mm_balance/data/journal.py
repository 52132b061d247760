"""The journal of a store: which clips were decoded or failed, by identity; it survives a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_balance.data.recipe import Recipe
from mm_balance.errors import UserError

VERSION = 1
JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True)
class Clip:
    """One sample to decode.

    Attributes:
        sample: sample id.
        files: modality -> file, or folder of frames.
        identity: hexadecimal digest of the id and of the names, sizes and modification times of the files.
    """

    sample: str
    files: dict[str, Path]
    identity: str


@dataclass(frozen=True)
class Failure:
    """A clip that could not be decoded."""

    sample: str
    modality: str
    reason: str


def identify(sample: str, files: Mapping[str, Path], names: Mapping[str, str]) -> Clip:
    """Return the clip made of these files.

    Args:
        sample: sample id.
        files: modality -> path.
        names: modality -> path as written in the manifest, so that moving the folder does not change identities.

    Raises:
        OSError: a file does not exist.
    """
    parts: list[Any] = [sample]
    for modality, path in files.items():
        for item in frames_of(path) if path.is_dir() else [path]:
            status = item.stat()
            parts.append([modality, names[modality], item.name, status.st_size, status.st_mtime_ns])
    return Clip(sample, dict(files), hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24])


def frames_of(folder: Path) -> list[Path]:
    """Return the regular files in a folder of frames, sorted by name."""
    return sorted(item for item in folder.iterdir() if item.is_file())


class Journal:
    """Decoding attempts so far: a header line with the recipe, then one line per clip."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header
        self.rows: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, Failure] = {}
        self.next_row = 0

    @classmethod
    def read(cls, folder: Path, recipe: Recipe, kinds: Mapping[str, str]) -> Journal:
        """Read the journal of the store in ``folder``, or start one. Raises UserError if it was written with another recipe."""
        header = {"version": VERSION, "recipe": recipe.settings(), "kinds": dict(kinds)}
        journal = cls(folder / JOURNAL_FILE, header)
        if not journal.path.is_file():
            journal.path.write_text(json.dumps(header) + "\n", "utf-8")
            return journal
        text = journal.path.read_text("utf-8")
        lines = text.splitlines()
        if text and not text.endswith("\n"):  # cut off by a kill: that clip is decoded again
            lines.pop()
            journal.path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        if not lines or json.loads(lines[0]) != header:
            raise UserError(
                f"{folder} was prepared with a different recipe than its name says: delete it and prepare again"
            )
        for line in lines[1:]:
            entry = json.loads(line)
            if entry["ok"] or entry["lasting"]:
                journal.add(entry)
            else:
                journal.next_row = max(journal.next_row, entry["row"] + 1)
        return journal

    @contextmanager
    def appending(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yield a function that adds an entry and writes it to disk at once."""
        with self.path.open("a", encoding="utf-8") as file:

            def append(entry: dict[str, Any]) -> None:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                self.add(entry)

            yield append

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry in memory."""
        self.next_row = max(self.next_row, entry["row"] + 1)
        if entry["ok"]:
            self.rows[entry["identity"]] = entry
        else:
            self.failed[entry["identity"]] = Failure(entry["sample"], entry["modality"], entry["reason"])
