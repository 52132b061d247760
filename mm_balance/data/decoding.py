"""Decode clips into rows of a store, in this process or in a pool."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.frames import color_moments, read_frames
from mm_balance.data.growing_array import RowWriter, row_shapes
from mm_balance.data.journal import Clip, frames_of
from mm_balance.data.recipe import SOUND, Recipe
from mm_balance.data.sound import DecodeError, audio_features
from mm_balance.errors import Interrupted, UserError

WRITERS_FILE = "writers"
"""Lock file that every process writing rows holds in shared mode."""
Given = TypeVar("Given")
Result = TypeVar("Result")


def results(
    work: Callable[[Given], Result], tasks: Iterable[Given], workers: int, stop: Callable[[], bool]
) -> Iterator[Result]:
    """Yield what ``work`` returns for each task as it completes.

    Args:
        work: a function at the top level of a module.
        tasks: its arguments.
        workers: number of processes; 1 = work in this one.
        stop: polled after every task.

    Raises:
        Interrupted: ``stop`` returned True.
        UserError: a decoding process died.
    """
    if workers == 1:
        for task in tasks:
            yield work(task)
            if stop():
                raise Interrupted
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mm_balance.data.decoding"])
    worker_end, parent_end = context.Pipe(duplex=False)
    with parent_end, worker_end, ProcessPoolExecutor(workers, context, _start_worker, (worker_end,)) as pool:
        pending = iter(tasks)
        running: set[Future[Result]] = set()
        try:
            while True:
                # Submit only a few tasks ahead, so that a stop does not wait for thousands.
                while len(running) < 2 * workers and (next_task := next(pending, None)) is not None:
                    running.add(pool.submit(work, next_task))
                if not running:
                    return
                done, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                if stop():
                    raise Interrupted
        except BrokenProcessPool as error:
            raise UserError(
                "a decoding process died (out of memory, a file that crashes the decoder, or a script that prepares data outside "
                '`if __name__ == "__main__":`); decoded clips are kept: run again, with workers=1 to see which clip it stops at'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(parent: Connection) -> None:
    def exit_with_parent() -> None:
        # A killed parent cannot stop its workers, which would wait for tasks forever. But its end of the pipe closes.
        try:
            parent.recv()
        except EOFError:
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    # There are as many processes as cores, so threads of torch and BLAS would only compete for them.
    torch.set_num_threads(1)
    threadpool_limits(1)


@dataclass(frozen=True)
class Task:
    """Clips to decode into consecutive rows, from ``first_row`` on, of the store in ``folder``."""

    folder: Path
    recipe: Recipe
    kinds: dict[str, str]
    clips: tuple[Clip, ...]
    first_row: int


def decode_chunk(task: Task) -> list[dict[str, Any]]:
    """Decode the clips of a task into their rows and return one journal entry per clip."""
    shapes = row_shapes(task.recipe, task.kinds)
    with ExitStack() as stack:
        writers = stack.enter_context((task.folder / WRITERS_FILE).open("w"))
        fcntl.flock(writers, fcntl.LOCK_SH)
        arrays = {
            name: RowWriter(stack.enter_context((task.folder / f"{name}.npy").open("r+b")), *shapes[name])
            for name in task.kinds
        }
        return [_decode_clip(clip, task.first_row + offset, task, arrays) for offset, clip in enumerate(task.clips)]


def _decode_clip(clip: Clip, row: int, task: Task, arrays: Mapping[str, RowWriter]) -> dict[str, Any]:
    entry: dict[str, Any] = {"identity": clip.identity, "sample": clip.sample, "row": row, "ok": True}
    hashes: dict[Path, str] = {}
    for name, kind in task.kinds.items():
        path = clip.files[name]
        try:
            values, facts = _decode(path, kind, task.recipe)
            if path not in hashes:
                hashes[path] = content_hash(path)
        except DecodeError as error:
            return entry | {"ok": False, "modality": name, "reason": str(error), "lasting": True}
        except OSError as error:  # permissions and connections can be fixed without the file changing
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
        exact = values.astype(np.float64)
        sound_metadata = {"seconds": sound.seconds, "rate": sound.rate, "channels": sound.channels}
        return values, sound_metadata | {"mean": [float(exact.mean())], "square": [float(np.square(exact).mean())]}
    frames, image = read_frames(
        path, frames_per_second=recipe.frames_per_second, count=recipe.frame_count, size=recipe.frame_edge
    )
    mean, square = color_moments(frames[: image.valid])
    image_metadata = {
        "seconds": image.seconds,
        "rate": image.rate,
        "width": image.width,
        "height": image.height,
    }
    return frames, image_metadata | {"frames": image.valid, "mean": mean, "square": square}


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the names and contents of all frames in a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for item in frames_of(path):
        digest.update(f"{item.name}\0{content_hash(item)}\n".encode())
    return digest.hexdigest()
