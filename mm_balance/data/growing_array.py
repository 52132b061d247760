"""Arrays on disk written row by row: ``.npy`` files that grow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.recipe import Recipe
from mm_balance.errors import UserError
from mm_balance.input_kinds import SOUND


def row_shapes(recipe: Recipe, kinds: Mapping[str, str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return modality -> shape and dtype of a stored row."""
    sound = (AUDIO_RECIPES[recipe.audio].shape(recipe.clip_seconds), "<f4")
    # Channels last, as images are decoded and as convolutions are fastest.
    image = ((recipe.frame_count, recipe.frame_edge, recipe.frame_edge, 3), "|u1")
    arrays = {name: (shape, "<f4") for name, shape in recipe.shapes.items()}
    return {name: arrays.get(name, sound if kind == SOUND else image) for name, kind in kinds.items()}


def _header(rows: int, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    return {"descr": dtype, "fortran_order": False, "shape": (rows, *shape)}


def write_header(path: Path, rows: int, shape: tuple[int, ...], dtype: str) -> None:
    """Create the file or grow it in place: NumPy pads the header, so a larger first dimension fits."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        np.lib.format.write_array_header_1_0(file, _header(rows, shape, dtype))
        offset = file.tell()
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        file.truncate(offset + rows * row_bytes)


class RowWriter:
    """Writer of single rows of an array on disk.

    It uses ``pwrite``, which raises on a full disk; writing through a memory map would kill the process.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        self._file, self._start = file, file.tell()
        self._shape, self._dtype = shape, dtype

    def write(self, row: int, values: np.ndarray) -> None:
        """Write ``values`` (of the row's shape) to a row. Raises OSError if the disk is full."""
        contiguous = np.ascontiguousarray(values, dtype=self._dtype).reshape(self._shape)
        content = memoryview(contiguous.data).cast("B")
        offset = self._start + row * contiguous.nbytes
        while content:
            written = os.pwrite(self._file.fileno(), content, offset)
            content, offset = content[written:], offset + written


def check_disk_space(folder: Path, clips: int, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise UserError if ``clips`` more clips do not fit on the disk of ``folder``."""
    needed = clips * sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {clips} clips need {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; use another data_dir, a "
            "smaller image_size, a lower frames_per_second or fewer sequence_steps"
        )
