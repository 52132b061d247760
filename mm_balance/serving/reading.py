"""From a cell of a table (file, bytes, array) to a network input, with the functions that made the training data's inputs."""

from __future__ import annotations

import base64
import binascii
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm_balance.data import Split
from mm_balance.data.dataset import FrameView
from mm_balance.data.digits import BANDS, CANVAS, CLIP, FRAMES, HOP, LOUDNESS, WINDOW
from mm_balance.data.digits import RATE as DIGITS_RATE
from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.files import DecodeError
from mm_balance.data.frames import IMAGE_EXTENSIONS, open_image, read_frames, read_picture
from mm_balance.data.logmel import log_mel
from mm_balance.data.npy import ARRAY_EXTENSIONS, read_array
from mm_balance.data.sound import (
    RESAMPLER_MARGIN,
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    audio_features,
    read_sound_file,
    resample,
)
from mm_balance.input_kinds import SEQUENCE, SOUND, VECTOR
from mm_balance.serving.checks import warnings_of_sound
from mm_balance.serving.recipes import ARRAYS, DIGITS, ModalityRecipe

PATHS_VARIABLE = "MM_BALANCE_SERVE_PATHS"
"""``false``: paths are refused, so that those who can reach a server cannot have it read files on its disk."""
PREFIX, MARK = "data:", ";base64,"
TYPES_WANTED = (
    "give the path of a file, its bytes (in JSON as text: data:;base64,...), or an array as the network takes it"
)
SIGNATURES = (
    (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"),
    (0, b"ID3", ".mp3"),
    (0, b"\xff\xfb", ".mp3"),
    (0, b"\xff\xf3", ".mp3"),
    (0, b"\xff\xf2", ".mp3"),
    (0, b"\x89PNG", ".png"),
    (0, b"\x93NUMPY", ".npy"),
    (0, b"\xff\xd8\xff", ".jpg"),
    (8, b"WAVE", ".wav"),
    (8, b"AVI ", ".avi"),
    (4, b"ftyp", ".mp4"),
    (0, b"\x1aE\xdf\xa3", ".mkv"),
    (0, b"\x00\x00\x01\xba", ".mpg"),
    (0, b"\x00\x00\x01\xb3", ".mpg"),
    (0, b"FLV", ".flv"),
)
"""Offset and bytes by which a file without a name is recognized, and the extension that its decoder goes by."""


class CellError(Exception):
    """A cell cannot be used; the message is the reason and what to do."""


@dataclass
class Reading:
    """What was read from one cell.

    Attributes:
        values: a decoded file as the store keeps it, or an array as the network takes it.
        finished: whether it is the latter.
        frames: number of decoded frames.
        aspect: width / height of the original image.
        warnings: what is suspicious about the file.
    """

    values: np.ndarray
    finished: bool
    frames: int = 1
    aspect: float = 1.0
    warnings: list[str] = field(default_factory=list)


def read_cell(cell: Any, recipe: ModalityRecipe) -> Reading:
    """Read one cell.

    Args:
        cell: a path, the bytes of a file, these as text (``data:;base64,...``), or an array (also nested lists).
        recipe: recipe of the modality.

    Raises:
        CellError: nothing, a file that cannot be read or is of another kind, or an array of another shape or type.
    """
    if isinstance(cell, np.ndarray | list | tuple | Tensor):
        return Reading(_array(cell, recipe), finished=True)
    if isinstance(cell, str) and cell.startswith(PREFIX):
        cell = _decoded(cell)
    if not isinstance(cell, str | os.PathLike | bytes | bytearray):
        nothing = cell is None or (isinstance(cell, float) and math.isnan(cell))  # pandas has NaN for an empty cell
        raise CellError(f"{'nothing' if nothing else type(cell).__name__} given; {TYPES_WANTED}")
    if not isinstance(cell, bytes | bytearray) and os.environ.get(PATHS_VARIABLE) == "false":
        raise CellError(
            f"this server takes no paths ({PATHS_VARIABLE}=false); give the bytes of the file: data:;base64,..."
        )
    if recipe.made == ARRAYS:
        raise CellError(f"this model cannot read files; {recipe.text()}")
    if isinstance(cell, bytes | bytearray):
        with _as_file(bytes(cell)) as path:
            return _read_file(path, recipe)
    return _read_file(Path(cell), recipe)


def finish(readings: Sequence[Reading], recipe: ModalityRecipe) -> Tensor:
    """Return the network inputs of a batch, ``(batch, *recipe.shape)``: frames are chosen and resized as in evaluation."""
    raw = [number for number, reading in enumerate(readings) if not reading.finished]
    made = _finish_files([readings[number] for number in raw], recipe) if raw else torch.empty(0)
    if len(raw) == len(readings):
        return made
    if not raw and len({reading.values.dtype for reading in readings}) == 1:
        return torch.from_numpy(np.stack([reading.values for reading in readings]))
    # Files and arrays in one batch, or arrays of several types.
    places = iter(made)
    return torch.stack(
        [
            _as_float(torch.from_numpy(reading.values) if reading.finished else next(places), recipe)
            for reading in readings
        ]
    )


def _finish_files(readings: Sequence[Reading], recipe: ModalityRecipe) -> Tensor:
    stored = torch.from_numpy(np.stack([reading.values for reading in readings]))
    if recipe.view is None:
        return stored
    counts = torch.tensor([reading.frames for reading in readings])
    aspect = torch.tensor([reading.aspect for reading in readings], dtype=torch.float32)
    view = FrameView(recipe.view, counts, aspect)
    index = torch.arange(len(readings))
    names = [str(number) for number in range(len(readings))]
    split = Split("given", {"image": stored}, index, names, [""] * len(readings), views={"image": view})
    return split.finish(split.read(index, None), index, None)["image"]


def _as_float(values: Tensor, recipe: ModalityRecipe) -> Tensor:
    if recipe.dtype == "uint8" and values.dtype == torch.uint8:
        return values.float() / 255
    return values.float()


def _array(cell: Any, recipe: ModalityRecipe) -> np.ndarray:
    expected = f"{recipe.dtype} of shape {recipe.shape}" + (" or of any length" if recipe.kind == SEQUENCE else "")
    try:
        values = np.asarray(cell)
    except ValueError as error:  # nested lists of unequal length
        raise CellError(f"not an array ({error}); the network takes {expected}") from error
    if values.dtype.kind not in "iuf":
        raise CellError(f"an array of {values.dtype}; the network takes {expected}")
    if recipe.kind == SEQUENCE and values.ndim == 2 and len(values) and values.shape[1] == recipe.shape[1]:
        values = _as_long_as(values, recipe.shape[0])
    if values.shape != recipe.shape:
        raise CellError(f"an array of shape {values.shape}; the network takes {expected}")
    if values.dtype == np.uint8 and recipe.dtype == "uint8":
        return values
    if values.dtype.kind in "iu" and recipe.dtype == "uint8":
        if values.min() < 0 or values.max() > 255:
            raise CellError(
                f"whole numbers from {values.min()} to {values.max()}; a picture has 0 to 255, or fractions of 1"
            )
        return values.astype(np.uint8)
    if not np.isfinite(values).all():
        raise CellError("NaN or infinite values in the array; remove them")
    with np.errstate(over="ignore"):  # a sequence or vector of a file is refused for it, too
        result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise CellError("values beyond what float32 holds in the array; scale them as in training")
    return result


def _as_long_as(values: np.ndarray, steps: int) -> np.ndarray:
    """Cut a sequence, or pad it with steps of zeros, as its file would be."""
    kept = values[:steps]
    return np.pad(kept, ((0, steps - len(kept)), (0, 0)))


def _decoded(text: str) -> bytes:
    head, mark, body = text.partition(MARK)
    if not mark:
        raise CellError(
            f"text starts with {head[:20]!r} but has no {MARK!r}; write data:;base64, and the file in base64"
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CellError(f"what follows {MARK!r} is not base64 ({error})") from error


@contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """Write bytes to a temporary file with the extension of their format, because the decoders go by it."""
    extension = next((end for start, mark, end in SIGNATURES if content[start : start + len(mark)] == mark), None)
    if extension is None:
        raise CellError(
            f"{len(content):,} bytes of an unknown format; give a WAV, FLAC, OGG, MP3, PNG, JPEG, NPY or video file"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"bytes{extension}"
        path.write_bytes(content)
        yield path


def _read_file(path: Path, recipe: ModalityRecipe) -> Reading:
    is_array = recipe.kind in (VECTOR, SEQUENCE)
    known = (*(SOUND_EXTENSIONS if recipe.kind == SOUND else IMAGE_EXTENSIONS), *VIDEO_EXTENSIONS)
    known = ARRAY_EXTENSIONS if is_array else known
    takes_folders = recipe.kind != SOUND and not is_array
    folder = takes_folders and path.is_dir()
    if not folder and path.suffix.lower() not in known:
        wanted = ", ".join(known) + (" or a folder of frames" if takes_folders else "")
        raise CellError(f"extension {path.suffix.lower()!r}, where a {recipe.kind} is wanted; give {wanted}")
    try:
        if is_array:
            return Reading(read_array(path, recipe.kind, recipe.shape)[0], finished=False)
        if recipe.kind == SOUND:
            return _read_digit_sound(path, recipe) if recipe.made == DIGITS else _read_sound(path, recipe)
        return _read_digit_image(path) if recipe.made == DIGITS else _read_image(path, recipe)
    except DecodeError as error:
        raise CellError(str(error)) from error
    except OSError as error:
        raise CellError(
            f"cannot be read ({error.strerror or error}); give a path that this machine can read"
        ) from error


def _read_sound(path: Path, recipe: ModalityRecipe) -> Reading:
    assert recipe.decoding is not None
    decoding = recipe.decoding
    values, facts = audio_features(
        path, AUDIO_RECIPES[decoding.audio], decoding.clip_seconds, decoding.audio_fit, decoding.resampler,
        "sample" if decoding.per_sample else "none",
    )  # fmt: skip
    return Reading(values, finished=False, warnings=warnings_of_sound(facts, recipe))


def _read_image(path: Path, recipe: ModalityRecipe) -> Reading:
    assert recipe.decoding is not None
    frames, facts = read_frames(
        path,
        frames_per_second=recipe.decoding.frames_per_second,
        count=recipe.decoding.frame_count,
        size=recipe.decoding.frame_edge,
    )
    return Reading(frames, finished=False, frames=facts.valid, aspect=facts.width / facts.height)


def _read_digit_sound(path: Path, recipe: ModalityRecipe) -> Reading:
    """As `digits` makes its sounds, without the noise that it adds."""
    audio, facts = read_sound_file(path, seconds=CLIP / DIGITS_RATE + RESAMPLER_MARGIN)
    audio = resample(audio, facts.rate, DIGITS_RATE)
    if len(audio) > CLIP:
        raise CellError(f"{facts.seconds:.2f} s of sound; digits takes {CLIP / DIGITS_RATE:g} s: cut the word out")
    loudness = np.sqrt(np.square(audio).sum() / CLIP)
    if loudness == 0:
        raise CellError("silent: no sample above zero")
    clip = np.zeros(CLIP, np.float32)
    start = (CLIP - len(audio)) // 2
    clip[start : start + len(audio)] = audio * (LOUDNESS / loudness)
    spectra = log_mel(torch.from_numpy(clip)[None], rate=DIGITS_RATE, window=WINDOW, hop=HOP, bands=BANDS)
    return Reading(spectra[0, ..., :FRAMES].numpy(), finished=False, warnings=warnings_of_sound(facts, recipe))


def _read_digit_image(path: Path) -> Reading:
    if path.is_dir() or path.suffix.lower() not in IMAGE_EXTENSIONS:
        raise CellError(f"digits takes one picture, {', '.join(IMAGE_EXTENSIONS)}")
    gray = np.asarray(open_image(read_picture(path)).convert("L"))
    if gray.shape != (CANVAS, CANVAS):
        raise CellError(
            f"{gray.shape[1]} x {gray.shape[0]} pixels; digits takes {CANVAS} x {CANVAS}, a white digit of 20 to 28 pixels on black"
        )
    return Reading((gray / 255).astype(np.float32)[None], finished=False)
