"""Decode clips into rows of a store: a task for one process."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.files import DecodeError, open_regular
from mm_balance.data.frames import color_moments, read_frames
from mm_balance.data.growing_array import RowWriter, row_shapes
from mm_balance.data.journal import Clip, frames_of
from mm_balance.data.memory import NotEnoughMemory, limited_memory, memory_errors_named
from mm_balance.data.npy import read_array
from mm_balance.data.recipe import Recipe
from mm_balance.data.sound import audio_features
from mm_balance.data.workers import Rescue, now_at
from mm_balance.input_kinds import SOUND

WRITERS_FILE = "writers"
"""Lock file that every process writing rows holds in shared mode."""


@dataclass(frozen=True)
class Task:
    """Clips to decode into consecutive rows, from ``first_row`` on, of the store in ``folder``."""

    folder: Path
    recipe: Recipe
    kinds: dict[str, str]
    clips: tuple[Clip, ...]
    first_row: int


def decode_chunk(task: Task) -> list[dict[str, Any]]:
    """Decode the clips of a task into their rows, within a limit of memory, and return one journal entry per clip."""
    shapes = row_shapes(task.recipe, task.kinds)
    with ExitStack() as stack:
        writers = stack.enter_context((task.folder / WRITERS_FILE).open("w"))
        fcntl.flock(writers, fcntl.LOCK_SH)
        arrays = {
            name: RowWriter(stack.enter_context((task.folder / f"{name}.npy").open("r+b")), *shapes[name])
            for name in task.kinds
        }
        stack.enter_context(limited_memory())
        return [_decode_clip(clip, task.first_row + offset, task, arrays) for offset, clip in enumerate(task.clips)]


def _decode_clip(clip: Clip, row: int, task: Task, arrays: Mapping[str, RowWriter]) -> dict[str, Any]:
    entry: dict[str, Any] = {"identity": clip.identity, "sample": clip.sample, "row": row, "ok": True}
    hashes: dict[Path, str] = {}
    for name, kind in task.kinds.items():
        path = clip.files[name]
        now_at(name)
        try:
            values, facts = _decode(path, name, kind, task.recipe)
            if path not in hashes:
                hashes[path] = content_hash(path)
        except DecodeError as error:
            lasting = not isinstance(error, NotEnoughMemory)
            return entry | {"ok": False, "modality": name, "reason": str(error), "lasting": lasting}
        except OSError as error:  # permissions and connections can be fixed without the file changing
            reason = f"cannot be read ({error.strerror or error})"
            return entry | {"ok": False, "modality": name, "reason": reason, "lasting": False}
        arrays[name].write(row, values)
        entry[name] = facts | {"sha256": hashes[path]}
    return entry


def _single_clips(task: Task) -> list[Task]:
    if len(task.clips) == 1:
        return []
    return [replace(task, clips=(clip,), first_row=task.first_row + offset) for offset, clip in enumerate(task.clips)]


def _joined(entries: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [entry for part in entries for entry in part]


def _died(task: Task, reason: str, at: str) -> list[dict[str, Any]]:
    # Lasting: a single clip is decoded in the process of the command itself, which would die of it, too.
    clip = task.clips[0]
    entry = {"identity": clip.identity, "sample": clip.sample, "row": task.first_row, "ok": False, "lasting": True}
    return [entry | {"modality": at or next(iter(task.kinds)), "reason": reason}]


RESCUE = Rescue(_single_clips, _joined, _died)
"""For ``decode_chunk``: a clip at which processes die is a failure of this clip."""


@memory_errors_named()
def _decode(path: Path, modality: str, kind: str, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    if modality in recipe.shapes:
        # No moments of each clip, as of sounds and images: a vector has as many of them as numbers.
        numbers, array = read_array(path, kind, recipe.shapes[modality])
        return numbers, {"steps": array.steps, "features": array.features, "dtype": str(array.dtype)}
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
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for item in frames_of(path):
        digest.update(f"{item.name}\0{content_hash(item)}\n".encode())
    return digest.hexdigest()
