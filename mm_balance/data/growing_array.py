"""Arrays on disk whose rows are written one by one: ``.npy`` files that grow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.recipe import SOUND, Recipe
from mm_balance.errors import UserError


def row_shapes(recipe: Recipe, kinds: Mapping[str, str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Modality -> shape of a stored row, and its type."""
    sound = (AUDIO_RECIPES[recipe.audio].shape(recipe.clip_seconds), "<f4")
    # Colors last, as pictures are decoded and as convolutions are fastest.
    picture = ((recipe.frame_count, recipe.frame_edge, recipe.frame_edge, 3), "|u1")
    return {name: sound if kind == SOUND else picture for name, kind in kinds.items()}


def _header(rows: int, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    return {"descr": dtype, "fortran_order": False, "shape": (rows, *shape)}


def write_header(path: Path, rows: int, shape: tuple[int, ...], dtype: str) -> None:
    """Make the file, or let it grow. NumPy leaves room in the header for a larger first dimension."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        np.lib.format.write_array_header_1_0(file, _header(rows, shape, dtype))
        offset = file.tell()
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        file.truncate(offset + rows * row_bytes)


class Rows:
    """An array on disk whose rows are written one by one.

    By ``pwrite``: on a full disk it raises, where writing through a mapping would kill the process.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        self._file, self._start = file, file.tell()
        self._shape, self._dtype = shape, dtype

    def write(self, row: int, values: np.ndarray) -> None:
        """Put ``values`` (of the row's shape) into a row. Raises OSError where there is no room."""
        whole = np.ascontiguousarray(values, dtype=self._dtype).reshape(self._shape)
        content = memoryview(whole.data).cast("B")
        place = self._start + row * whole.nbytes
        while content:
            written = os.pwrite(self._file.fileno(), content, place)
            content, place = content[written:], place + written


def check_room(folder: Path, clips: int, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise UserError where so many clips do not fit on the disk of ``folder``."""
    needed = clips * sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {clips} clips need {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; give another data_dir, a "
            "smaller image_size or fewer frames_per_second"
        )
