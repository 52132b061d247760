"""Arrays in ``.npy`` files: a vector of features, or a sequence of them. Nothing in a file is unpickled, and no size is believed."""

from __future__ import annotations

import io
import os
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mm_balance.data.files import DecodeError, open_regular
from mm_balance.data.memory import memory_errors_named
from mm_balance.input_kinds import SEQUENCE, VECTOR

ARRAY_EXTENSIONS = (".npy",)
HEAD_BYTES = 4096
"""Bytes in which the header must lie. That of an array of numbers has 128; longer ones belong to tables, or are made to do harm."""
KINDS = {1: VECTOR, 2: SEQUENCE}
"""Number of dimensions -> kind of input."""


@dataclass(frozen=True)
class ArrayFacts:
    """What the header of a file says, checked against the size of the file.

    Attributes:
        shape: ``(features,)`` or ``(steps, features)``, each at least 1.
        dtype: type of the numbers.
        by_column: whether a sequence lies in the file column by column (Fortran's order).
        start: position of the first number, bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool
    start: int

    @property
    def kind(self) -> str:
        """``vector`` or ``sequence``."""
        return KINDS[len(self.shape)]

    @property
    def features(self) -> int:
        """Numbers in a vector, or in each step."""
        return self.shape[-1]

    @property
    def steps(self) -> int:
        """Steps of a sequence; 1 of a vector."""
        return self.shape[0] if self.kind == SEQUENCE else 1


def array_facts(path: Path) -> ArrayFacts:
    """Read the header of a file.

    Raises:
        DecodeError: no ``.npy`` file, a dtype or number of dimensions that cannot be used, empty, or shorter than its header says.
        OSError: the file cannot be opened.
    """
    with open_regular(path) as file:
        return _facts(file)


@memory_errors_named()
def read_array(path: Path, kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray, ArrayFacts]:
    """Read a vector, or the first steps of a sequence.

    Only what is kept of a sequence is read: memory follows ``shape`` and what is in the file, not what its header says.

    Args:
        path: the file.
        kind: ``vector`` or ``sequence``.
        shape: ``(features,)`` or ``(steps, features)`` of the result.

    Returns:
        ``shape`` float32: longer sequences are cut, shorter ones padded with steps of zeros; and the facts about the file.

    Raises:
        DecodeError: as ``array_facts``; another kind or number of features; values that are not finite as float32; a sequence
            whose kept steps are all zero, which stands for padding.
        OSError: the file cannot be opened.
    """
    with open_regular(path) as file:
        facts = _facts(file)
        if reason := why_different(facts, kind, shape[-1]):
            raise DecodeError(reason)
        values = _first_steps(file, facts, shape[0] if kind == SEQUENCE else 1)
    with np.errstate(over="ignore"):  # reported below, with the reason
        kept = values.astype(np.float32)
    if not np.isfinite(kept).all():
        known = "contains NaN or infinite values" if not np.isfinite(values).all() else "contains values beyond float32"
        raise DecodeError(f"{known} (the first at {_first_not_finite(kept, kind)})")
    if kind == VECTOR:
        return kept[0], facts
    if not kept.any():
        raise DecodeError("nothing but zeros in the steps that are kept, and steps of zeros are padding")
    result = np.zeros(shape, np.float32)
    result[: len(kept)] = kept
    return result, facts


def why_different(facts: ArrayFacts, kind: str, features: int) -> str:
    """Return why an array is not one of ``kind`` with that many features; empty = it is."""
    if facts.kind != kind:
        return f"contains a {facts.kind} (array of shape {facts.shape}), where a {kind} is wanted"
    if facts.features != features:
        return f"has {facts.features:,} features, where {features:,} are wanted"
    return ""


def _facts(file: BinaryIO) -> ArrayFacts:
    head = io.BytesIO(file.read(HEAD_BYTES))
    try:
        version = np.lib.format.read_magic(head)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        shape, by_column, dtype = readers[version](head)
    # The header is Python text, so a damaged one fails in any of these ways.
    except (
        ValueError,
        TypeError,
        KeyError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        reason = " ".join(str(error).split())[:100]
        raise DecodeError(f"cannot be read as a NumPy array ({reason})") from error
    if dtype.hasobject:
        raise DecodeError("contains Python objects, which are never loaded; save an array of numbers")
    if dtype.kind not in "fiu":
        raise DecodeError(f"contains {dtype}, where float or int is wanted; save it as float32")
    if len(shape) not in KINDS:
        raise DecodeError(
            f"an array of {len(shape)} dimensions; a vector has 1, (features,), and a sequence 2, (steps, features)"
        )
    if min(shape) < 1:
        raise DecodeError(f"an empty array, of shape {shape}")
    facts = ArrayFacts(shape, dtype, by_column, head.tell())
    needed, present = dtype.itemsize * facts.steps * facts.features, os.fstat(file.fileno()).st_size - facts.start
    if present < needed:
        raise DecodeError(f"truncated: {max(0, present):,} of {needed:,} bytes of numbers are present")
    return facts


def _first_steps(file: BinaryIO, facts: ArrayFacts, count: int) -> np.ndarray:
    """Read up to ``count`` steps: ``(steps, features)`` in the file's dtype."""
    steps, size = min(count, facts.steps), facts.dtype.itemsize
    if not facts.by_column:
        return _numbers(file, facts, 0, steps * facts.features).reshape(steps, facts.features)
    if facts.kind == VECTOR:
        return _numbers(file, facts, 0, facts.features)[None]
    columns = [_numbers(file, facts, column * facts.steps * size, steps) for column in range(facts.features)]
    return np.stack(columns, axis=1)


def _numbers(file: BinaryIO, facts: ArrayFacts, offset: int, count: int) -> np.ndarray:
    file.seek(facts.start + offset)
    content = file.read(count * facts.dtype.itemsize)
    if len(content) < count * facts.dtype.itemsize:
        raise DecodeError("truncated while it was read")
    return np.frombuffer(content, facts.dtype)


def _first_not_finite(values: np.ndarray, kind: str) -> str:
    step, feature = np.argwhere(~np.isfinite(values))[0].tolist()
    return f"feature {feature}" if kind == VECTOR else f"step {step}, feature {feature}"
