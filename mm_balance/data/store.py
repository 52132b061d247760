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
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.frames import colour_moments, read_frames
from mm_balance.data.recipe import SOUND, Recipe
from mm_balance.data.sound import Undecodable, audio_features
from mm_balance.errors import Interrupted, UserError

VERSION = 1
STORE_FILE, TABLE_FILE, JOURNAL_FILE = "store.json", "samples.parquet", "journal.jsonl"
LOCK_FILE = "lock"
"""Held by the process that prepares."""
WRITERS_FILE = "writers"
"""Held, shared, by every process that writes rows."""
CHUNK = 16
"""Clips per task of a worker: few enough that a kill costs seconds."""
CLIPS_PER_WORKER = 64
"""Starting a process costs as much as decoding some tens of clips."""


@dataclass(frozen=True)
class Clip:
    """One sample to decode.

    Attributes:
        sample: its id.
        files: modality -> file, or folder of frames.
        identity: hexadecimal digest of id and the files' names, sizes and times.
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


def identify(sample: str, files: Mapping[str, Path], names: Mapping[str, str]) -> Clip:
    """The clip of these files.

    Args:
        sample: its id.
        files: modality -> path.
        names: modality -> the path as the manifest has it, so that a moved folder stays the same store.

    Raises:
        OSError: a file is not there.
    """
    parts: list[Any] = [sample]
    for modality, path in files.items():
        for item in frames_of(path) if path.is_dir() else [path]:
            status = item.stat()
            parts.append([modality, names[modality], item.name, status.st_size, status.st_mtime_ns])
    return Clip(sample, dict(files), hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24])


def frames_of(folder: Path) -> list[Path]:
    """The files of a folder of frames, sorted by name."""
    return sorted(item for item in folder.iterdir() if item.is_file())


def row_shapes(recipe: Recipe, kinds: Mapping[str, str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Modality -> shape of a stored row, and its type."""
    sound = (AUDIO_RECIPES[recipe.audio].shape(recipe.clip_seconds), "<f4")
    # Colours last, as pictures are decoded and as convolutions are fastest.
    picture = ((recipe.frame_count, recipe.frame_edge, recipe.frame_edge, 3), "|u1")
    return {name: sound if kind == SOUND else picture for name, kind in kinds.items()}


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
            journal = _Journal.read(folder, recipe, kinds)
            known = journal.rows.keys() | journal.failed.keys()
            todo = [clip for clip in clips if clip.identity not in known]
            if todo:
                _decode_all(folder, todo, recipe, dict(kinds), journal, workers, progress, stop)
            failures = [journal.failed[clip.identity] for clip in clips if clip.identity in journal.failed]
            if todo or not (folder / STORE_FILE).is_file():
                _finish(folder, journal, recipe, dict(kinds))
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
    journal: _Journal,
    workers: int | None,
    progress: bool,
    stop: Callable[[], bool],
) -> None:
    shapes = row_shapes(recipe, kinds)
    with (folder / WRITERS_FILE).open("w") as writers:
        # Workers of a killed call live on for a second, and rows that they still write must not be given away again.
        fcntl.flock(writers, fcntl.LOCK_EX)
    first = journal.next_row
    _check_room(folder, len(todo), shapes)
    for name, (shape, dtype) in shapes.items():
        _write_header(folder / f"{name}.npy", first + len(todo), shape, dtype)
    tasks = [
        _Task(folder, recipe, kinds, tuple(todo[start : start + CHUNK]), first + start)
        for start in range(0, len(todo), CHUNK)
    ]
    count = workers or max(1, min(os.cpu_count() or 1, len(todo) // CLIPS_PER_WORKER))
    bar = tqdm(total=len(todo), desc="decoding", unit="clip", disable=not progress, mininterval=0.5, dynamic_ncols=True)
    with bar, journal.appending() as append:
        for entries in _results(tasks, count, stop):
            for entry in entries:
                append(entry)
            bar.update(len(entries))


def _results(tasks: list[_Task], workers: int, stop: Callable[[], bool]) -> Iterator[list[dict[str, Any]]]:
    if workers == 1:
        for task in tasks:
            yield _decode_chunk(task)
            if stop():
                raise Interrupted
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mm_balance.data.store"])
    theirs, ours = context.Pipe(duplex=False)
    with ours, theirs, ProcessPoolExecutor(workers, context, _start_worker, (theirs,)) as pool:
        waiting = iter(tasks)
        running: set[Future[list[dict[str, Any]]]] = set()
        try:
            while True:
                # A few tasks ahead: a stop must not wait for thousands.
                while len(running) < 2 * workers and (following := next(waiting, None)) is not None:
                    running.add(pool.submit(_decode_chunk, following))
                if not running:
                    return
                done, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                if stop():
                    raise Interrupted
        except BrokenProcessPool as error:
            raise UserError(
                "a decoding process died (out of memory, or a file that crashes the decoder); what was decoded is kept: "
                "run again, with workers=1 to see at which clip it stops"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(alive: Connection) -> None:
    def watch() -> None:
        # A killed parent cannot end its workers, and they would wait for tasks for ever: its end of the pipe closes.
        try:
            alive.recv()
        except EOFError:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)  # there are as many processes as cores


@dataclass(frozen=True)
class _Task:
    folder: Path
    recipe: Recipe
    kinds: dict[str, str]
    clips: tuple[Clip, ...]
    first_row: int


def _decode_chunk(task: _Task) -> list[dict[str, Any]]:
    """Decode some clips into their rows; one entry of the journal for each."""
    shapes = row_shapes(task.recipe, task.kinds)
    with ExitStack() as stack:
        writers = stack.enter_context((task.folder / WRITERS_FILE).open("w"))
        fcntl.flock(writers, fcntl.LOCK_SH)
        arrays = {
            name: _Rows(stack.enter_context((task.folder / f"{name}.npy").open("r+b")), *shapes[name])
            for name in task.kinds
        }
        return [_decode_clip(clip, task.first_row + place, task, arrays) for place, clip in enumerate(task.clips)]


def _decode_clip(clip: Clip, row: int, task: _Task, arrays: Mapping[str, _Rows]) -> dict[str, Any]:
    entry: dict[str, Any] = {"identity": clip.identity, "sample": clip.sample, "row": row, "ok": True}
    hashes: dict[Path, str] = {}
    for name, kind in task.kinds.items():
        path = clip.files[name]
        try:
            values, facts = _decode(path, kind, task.recipe)
            if path not in hashes:
                hashes[path] = content_hash(path)
        except Undecodable as error:
            return entry | {"ok": False, "modality": name, "reason": str(error), "lasting": True}
        except OSError as error:  # rights and cables can be put right without the file changing
            reason = f"cannot be read ({error.strerror or error})"
            return entry | {"ok": False, "modality": name, "reason": reason, "lasting": False}
        arrays[name].write(row, values)
        entry[name] = facts | {"sha256": hashes[path]}
    return entry


def _decode(path: Path, kind: str, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    if kind == SOUND:
        values, sound = audio_features(
            path, AUDIO_RECIPES[recipe.audio], recipe.clip_seconds, recipe.audio_fit, recipe.resampler,
            "sample" if recipe.per_sample else "none",
        )  # fmt: skip
        exact = values.ravel().astype(np.float64)
        heard = {"seconds": sound.seconds, "rate": sound.rate, "channels": sound.channels}
        return values, heard | {"mean": [float(exact.mean())], "square": [float(exact @ exact) / exact.size]}
    frames, picture = read_frames(
        path, frames_per_second=recipe.frames_per_second, count=recipe.frame_count, size=recipe.frame_edge
    )
    mean, square = colour_moments(frames[: picture.valid])
    seen = {
        "seconds": picture.seconds,
        "rate": picture.rate,
        "width": picture.width,
        "height": picture.height,
    }
    return frames, seen | {"frames": picture.valid, "mean": mean, "square": square}


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of all frames of a folder with their names."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for item in frames_of(path):
        whole.update(f"{item.name}\0{content_hash(item)}\n".encode())
    return whole.hexdigest()


def _header(rows: int, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    return {"descr": dtype, "fortran_order": False, "shape": (rows, *shape)}


def _write_header(path: Path, rows: int, shape: tuple[int, ...], dtype: str) -> None:
    """Make the file, or let it grow. NumPy leaves room in the header for a larger first dimension."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        np.lib.format.write_array_header_1_0(file, _header(rows, shape, dtype))
        offset = file.tell()
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        file.truncate(offset + rows * row_bytes)


class _Rows:
    """An array on disk whose rows are written one by one.

    By ``pwrite``: on a full disk it raises, where writing through a mapping would kill the process.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        self._file, self._start = file, file.tell()
        self._shape, self._dtype = shape, dtype

    def write(self, row: int, values: np.ndarray) -> None:
        whole = np.ascontiguousarray(values, dtype=self._dtype).reshape(self._shape)
        content = memoryview(whole.data).cast("B")
        place = self._start + row * whole.nbytes
        while content:
            written = os.pwrite(self._file.fileno(), content, place)
            content, place = content[written:], place + written


def _check_room(folder: Path, clips: int, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    needed = clips * sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {clips} clips need {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; give another data_dir, a "
            "smaller image_size or fewer frames_per_second"
        )


class _Journal:
    """What was tried so far: a header line that names the recipe, then one line per clip."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header
        self.rows: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, Failure] = {}
        self.next_row = 0

    @classmethod
    def read(cls, folder: Path, recipe: Recipe, kinds: Mapping[str, str]) -> _Journal:
        header = {"version": VERSION, "recipe": asdict(recipe), "kinds": dict(kinds)}
        journal = cls(folder / JOURNAL_FILE, header)
        if not journal.path.is_file():
            journal.path.write_text(json.dumps(header) + "\n", "utf-8")
            return journal
        text = journal.path.read_text("utf-8")
        lines = text.splitlines()
        if text and not text.endswith("\n"):  # torn by a kill: that clip is decoded again
            lines.pop()
            journal.path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        if not lines or json.loads(lines[0]) != header:
            raise UserError(f"{folder} was prepared otherwise than its name says: delete it and prepare again")
        for line in lines[1:]:
            entry = json.loads(line)
            if entry["ok"] or entry["lasting"]:
                journal._take(entry)
            else:
                journal.next_row = max(journal.next_row, entry["row"] + 1)
        return journal

    @contextmanager
    def appending(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        with self.path.open("a", encoding="utf-8") as file:

            def append(entry: dict[str, Any]) -> None:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                self._take(entry)

            yield append

    def _take(self, entry: dict[str, Any]) -> None:
        self.next_row = max(self.next_row, entry["row"] + 1)
        if entry["ok"]:
            self.rows[entry["identity"]] = entry
        else:
            self.failed[entry["identity"]] = Failure(entry["sample"], entry["modality"], entry["reason"])


def _finish(folder: Path, journal: _Journal, recipe: Recipe, kinds: dict[str, str]) -> None:
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
        _write_header(folder / f"{name}.npy", journal.next_row, shape, dtype)
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
