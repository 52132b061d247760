"""Finished runs of a command, written down as they end: it goes on where it was stopped even if its MLflow store is not there.

A line has the row, the seed and the digest of everything the result depends on (``mm.settings``: configuration, data, warm-up, code,
threads), so a result is only used again if training would give the same one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mm_balance.errors import UserError

Key = tuple[str, int, str]
"""Row, seed, digest of settings."""
KEYS = ("row", "seed", "settings")


class ResultsFile:
    """Results of runs in a CSV file, one line per run; a line is on disk as soon as its run has finished.

    Args:
        path: the file; made with its first line.
        columns: name of a result -> its type; a result that a run does not have stays empty.

    Raises:
        UserError: the file has other columns.
    """

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        self.path = path
        self.columns = dict(columns)
        self._results = self._read() if path.is_file() else {}

    def _read(self) -> dict[Key, dict[str, Any]]:
        text = self.path.read_text("utf-8")
        complete = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(complete))
        expected = [*KEYS, *self.columns]
        if reader.fieldnames != expected:
            raise UserError(
                f"{self.path} has the columns {reader.fieldnames}, expected {expected}; move the file away to train anew"
            )
        results = {
            (line["row"], int(line["seed"]), line["settings"]): {
                name: kind(line[name]) for name, kind in self.columns.items() if line[name]
            }
            for line in reader
        }
        if complete != text:  # a line that was cut off: its run counts as not finished
            self.path.write_text(complete, "utf-8")
        return results

    def __contains__(self, key: Key) -> bool:
        return key in self._results

    def __getitem__(self, key: Key) -> Mapping[str, Any]:
        return self._results[key]

    def keys(self) -> frozenset[Key]:
        """Return the keys of all lines."""
        return frozenset(self._results)

    def add(self, key: Key, results: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            ValueError: a result that is no column.
        """
        if unknown := results.keys() - self.columns.keys():
            raise ValueError(f"{self.path} has no columns {sorted(unknown)}")
        self._results[key] = dict(results)
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write([])
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(self._line(key))

    def keep(self, keys: Iterable[Key]) -> None:
        """Drop all lines but these, and sort them: runs of other settings or code are no part of the table."""
        self._results = {key: self._results[key] for key in sorted(set(keys))}
        self._write(self._results)

    def _write(self, keys: Iterable[Key]) -> None:
        partial = self.path.with_name(f"{self.path.name}.partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([[*KEYS, *self.columns], *map(self._line, keys)])
        os.replace(partial, self.path)

    def _line(self, key: Key) -> list[Any]:
        return [*key, *(self._results[key].get(name, "") for name in self.columns)]
