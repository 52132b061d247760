"""Decoded clips on disk: one memory-mapped ``.npy`` per modality, a Parquet table beside them, and a journal.

Why these formats: ``.npy`` gives any row of fixed shape without decoding, to NumPy, PyTorch and every other language;
Parquet holds what is known of each clip. Rows are only ever added, never overwritten, so a run that has the store open
is not disturbed by another ``prepare``.

Files of a store::

    store.json      version, recipe, kinds and shapes of the modalities
    samples.parquet one line per decoded clip: identity, sample, row, and per modality hash, seconds, rate, size, ...
    <modality>.npy  (rows, *shape), float32 for sounds, uint8 for pictures
    journal.jsonl   what was tried, in order: the truth from which samples.parquet is made; survives a kill

A clip is identified by its sample id and the names, sizes and times of its files: a file that changes is decoded anew.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mm_balance.data.decoding import WRITERS_FILE, Task, results
from mm_balance.data.growing_array import check_room, row_shapes, write_header
from mm_balance.data.journal import VERSION, Clip, Failure, Journal
from mm_balance.data.recipe import SOUND, Recipe
from mm_balance.errors import UserError

STORE_FILE, TABLE_FILE = "store.json", "samples.parquet"
LOCK_FILE = "lock"
"""Held by the process that prepares."""
CHUNK = 16
"""Clips per task of a worker: few enough that a kill costs seconds."""
CLIPS_PER_WORKER = 64
"""Starting a process costs as much as decoding some tens of clips."""


@dataclass(frozen=True)
class Store:
    """An open store.

    Attributes:
        folder: where it is.
        recipe: in one line.
        arrays: modality -> ``(rows, *shape)``, mapped, not read.
        columns: the table, column -> one value per decoded clip.
    """

    folder: Path
    recipe: str
    arrays: dict[str, np.ndarray]
    columns: dict[str, pa.ChunkedArray] = field(repr=False)

    def places(self, column: str) -> dict[str, int]:
        """``identity`` or ``sample`` -> line of the table; of two decodings of a sample the later one."""
        return {name: line for line, name in enumerate(self.columns[column].to_pylist())}


def build_store(
    folder: Path,
    clips: Sequence[Clip],
    recipe: Recipe,
    kinds: Mapping[str, str],
    *,
    workers: int | None = None,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Store, list[Failure]]:
    """Decode what ``folder`` does not hold yet, in parallel; nothing to do = nothing done.

    A kill at any time loses at most the clips under way; the next call goes on. A clip that could not be decoded is tried
    again when one of its files has changed.

    Args:
        folder: of the store; made if missing.
        clips: what it shall hold.
        recipe: how.
        kinds: modality -> ``sound`` or ``image``.
        workers: decoding processes; None = one per core, fewer for few clips; 1 = in this process.
        progress: show a bar.
        stop: asked between chunks.

    Returns:
        The store, and those of ``clips`` that could not be decoded.

    Raises:
        Interrupted: ``stop`` said so.
        UserError: no room, no right to write, or a decoding process that died.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, progress):
            journal = Journal.read(folder, recipe, kinds)
            known = journal.rows.keys() | journal.failed.keys()
            todo = [clip for clip in clips if clip.identity not in known]
            if todo:
                _decode_all(folder, todo, recipe, dict(kinds), journal, workers, progress, stop)
            failures = [journal.failed[clip.identity] for clip in clips if clip.identity in journal.failed]
            if todo or not (folder / STORE_FILE).is_file():
                finish(folder, journal, recipe, dict(kinds))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); what was decoded is kept") from error
    return open_store(folder), failures


def open_store(folder: Path) -> Store:
    """Map a finished store; reads the table, not the arrays.

    Raises:
        UserError: no finished store there, or of another version.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no prepared store")
    described = json.loads(path.read_text("utf-8"))
    if described["version"] != VERSION:
        raise UserError(
            f"{folder} is a store of version {described['version']}, not {VERSION}: delete it and prepare again"
        )
    table = pq.read_table(folder / TABLE_FILE)
    # Read-only: a mapping that could be written to would have to find room in memory for the whole file.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in described["kinds"]}
    return Store(folder, described["recipe_text"], arrays, {name: table[name] for name in table.column_names})


def _decode_all(
    folder: Path,
    todo: list[Clip],
    recipe: Recipe,
    kinds: dict[str, str],
    journal: Journal,
    workers: int | None,
    progress: bool,
    stop: Callable[[], bool],
) -> None:
    shapes = row_shapes(recipe, kinds)
    with (folder / WRITERS_FILE).open("w") as writers:
        # Workers of a killed call live on for a second, and rows that they still write must not be given away again.
        fcntl.flock(writers, fcntl.LOCK_EX)
    first = journal.next_row
    check_room(folder, len(todo), shapes)
    for name, (shape, dtype) in shapes.items():
        write_header(folder / f"{name}.npy", first + len(todo), shape, dtype)
    tasks = [
        Task(folder, recipe, kinds, tuple(todo[start : start + CHUNK]), first + start)
        for start in range(0, len(todo), CHUNK)
    ]
    count = workers or max(1, min(os.cpu_count() or 1, len(todo) // CLIPS_PER_WORKER))
    bar = tqdm(total=len(todo), desc="decoding", unit="clip", disable=not progress, mininterval=0.5, dynamic_ncols=True)
    with bar, journal.appending() as append:
        for entries in results(tasks, count, stop):
            for entry in entries:
                append(entry)
            bar.update(len(entries))


def finish(folder: Path, journal: Journal, recipe: Recipe, kinds: dict[str, str]) -> None:
    """Table and description from the journal, each replaced in one step."""
    entries = sorted(journal.rows.values(), key=lambda entry: entry["row"])
    columns: dict[str, Any] = {name: [entry[name] for entry in entries] for name in ("identity", "sample", "row")}
    for modality, kind in kinds.items():
        for fact in FACTS[kind]:
            columns[f"{modality}_{fact}"] = [entry[modality][fact] for entry in entries]
    partial = folder / f".{TABLE_FILE}"
    pq.write_table(pa.table(columns), partial)
    os.replace(partial, folder / TABLE_FILE)
    for name, (shape, dtype) in row_shapes(recipe, kinds).items():
        write_header(folder / f"{name}.npy", journal.next_row, shape, dtype)
    described = journal.header | {"recipe_text": recipe.text(kinds), "clips": len(entries)}
    partial = folder / f".{STORE_FILE}"
    partial.write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    os.replace(partial, folder / STORE_FILE)


FACTS = {
    SOUND: ("sha256", "seconds", "rate", "channels", "mean", "square"),
    "image": ("sha256", "seconds", "rate", "width", "height", "frames", "mean", "square"),
}
"""What the table says of each clip, by kind of modality. ``mean`` and ``square`` (mean of the squares) are per channel."""


@contextmanager
def _locked(folder: Path, progress: bool) -> Iterator[None]:
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"waiting for another process that prepares {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
