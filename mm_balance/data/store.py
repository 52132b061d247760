"""Store of decoded clips: one memory-mapped ``.npy`` per modality, a Parquet table of metadata, and a journal.

Why these formats: ``.npy`` gives random access to rows of fixed shape without decoding, from NumPy, PyTorch and other
languages; Parquet keeps the metadata of each clip. Rows are only added, never overwritten, so another ``prepare`` does not
disturb a run that has the store open.

Files of a store::

    store.json      version, recipe, kinds and shapes of the modalities
    samples.parquet one line per decoded clip: identity, sample, row, and per modality hash, seconds, rate, size, ...
    <modality>.npy  (rows, *shape), float32 for sounds, vectors and sequences, uint8 for images
    journal.jsonl   decoding attempts in order; samples.parquet is derived from it; survives a kill

A clip is identified by its sample id and the names, sizes and modification times of its files: a changed file is decoded again.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
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

from mm_balance.data.decoding import RESCUE, WRITERS_FILE, Task, decode_chunk
from mm_balance.data.growing_array import check_disk_space, row_shapes, write_header
from mm_balance.data.journal import VERSION, Clip, Failure, Journal
from mm_balance.data.recipe import Recipe
from mm_balance.data.workers import results
from mm_balance.errors import UserError
from mm_balance.input_kinds import IMAGE, SEQUENCE, SOUND, VECTOR

STORE_FILE, TABLE_FILE = "store.json", "samples.parquet"
LOCK_FILE = "lock"
"""Lock file held by the process that builds the store."""
CHUNK = 16
"""Clips per worker task; small, so that a kill loses only seconds of work."""
CLIPS_PER_WORKER = 64
"""Minimum number of clips per worker: starting a process costs as much as decoding tens of clips."""


@dataclass(frozen=True)
class Store:
    """An open store.

    Attributes:
        folder: its location.
        recipe: the recipe in one line.
        arrays: modality -> ``(rows, *shape)``, memory-mapped.
        columns: the table: column -> one value per decoded clip.
    """

    folder: Path
    recipe: str
    arrays: dict[str, np.ndarray]
    columns: dict[str, pa.ChunkedArray] = field(repr=False)

    def line_index(self, column: str) -> dict[str, int]:
        """Map ``identity`` or ``sample`` to its line in the table; if a sample was decoded twice, to the later one."""
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
    """Decode the clips that the store in ``folder`` does not have yet, in parallel; a no-op if there are none.

    A kill loses at most the clips in progress; the next call resumes. A clip that could not be decoded is retried once one of
    its files has changed.

    Args:
        folder: folder of the store; created if missing.
        clips: clips the store is to contain.
        recipe: how to decode them.
        kinds: modality -> ``sound``, ``image``, ``vector`` or ``sequence``.
        workers: decoding processes; None = one per core, fewer for few clips; 1 = in this process.
        progress: show a progress bar.
        stop: polled between chunks.

    Returns:
        The store, and the failures among ``clips``.

    Raises:
        Interrupted: ``stop`` returned True.
        UserError: not enough disk space, no write permission, or decoding processes cannot be started.
    """
    # Decoding processes import the script that started them. One that prepares data as it is imported would wait for itself here.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "a decoding process has imported your script, which prepares data at once: put its calls under "
            '`if __name__ == "__main__":`, or decode with workers=1'
        )
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
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); decoded clips are kept") from error
    return open_store(folder), failures


def open_store(folder: Path) -> Store:
    """Open a finished store: the table is read, the arrays are memory-mapped.

    Raises:
        UserError: no finished store in ``folder``, or one of another version.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        raise UserError(f"{folder} contains no prepared store; run prepare first")
    metadata = json.loads(path.read_text("utf-8"))
    if metadata["version"] != VERSION:
        raise UserError(
            f"{folder} is a store of version {metadata['version']}, not {VERSION}: delete it and prepare again"
        )
    table = pq.read_table(folder / TABLE_FILE)
    # Read-only: a writable private mapping would have to reserve memory for the whole file.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in metadata["kinds"]}
    return Store(folder, metadata["recipe_text"], arrays, {name: table[name] for name in table.column_names})


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
        # Workers of a killed call live for another second; rows they still write must not be assigned again.
        fcntl.flock(writers, fcntl.LOCK_EX)
    first = journal.next_row
    check_disk_space(folder, len(todo), shapes)
    for name, (shape, dtype) in shapes.items():
        write_header(folder / f"{name}.npy", first + len(todo), shape, dtype)
    tasks = [
        Task(folder, recipe, kinds, tuple(todo[start : start + CHUNK]), first + start)
        for start in range(0, len(todo), CHUNK)
    ]
    count = workers or max(1, min(os.cpu_count() or 1, len(todo) // CLIPS_PER_WORKER))
    bar = tqdm(total=len(todo), desc="decoding", unit="clip", disable=not progress, mininterval=0.5, dynamic_ncols=True)
    with bar, journal.appending() as append:
        for entries in results(decode_chunk, tasks, count, stop, RESCUE):
            for entry in entries:
                append(entry)
            bar.update(len(entries))


def finish(folder: Path, journal: Journal, recipe: Recipe, kinds: dict[str, str]) -> None:
    """Write the table and the description from the journal, replacing each file atomically."""
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
    metadata = journal.header | {"recipe_text": recipe.text(kinds), "clips": len(entries)}
    partial = folder / f".{STORE_FILE}"
    partial.write_text(json.dumps(metadata, indent=2) + "\n", "utf-8")
    os.replace(partial, folder / STORE_FILE)


FACTS = {
    SOUND: ("sha256", "seconds", "rate", "channels", "mean", "square"),
    IMAGE: ("sha256", "seconds", "rate", "width", "height", "frames", "mean", "square"),
    VECTOR: ("sha256", "features", "dtype"),
    SEQUENCE: ("sha256", "steps", "features", "dtype"),
}
"""Metadata columns of each clip, by kind of modality. ``mean`` and ``square`` (mean of the squares) are per channel; ``steps`` is what
the file has, also where fewer are kept."""


@contextmanager
def _locked(folder: Path, progress: bool) -> Iterator[None]:
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"waiting for another process that is preparing {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
