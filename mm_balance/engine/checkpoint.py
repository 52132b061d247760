"""Checkpoints: the state of a stage as tensors and primitives, written atomically and read with ``weights_only=True``.

A checkpoint is an ordinary file of ``torch.save``, a zip archive. Its comment is the SHA-256 of everything before, so that damage does
not pass for weights: zip checks its members only when they are read, and PyTorch does not have them checked.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mm_balance.errors import Unwritable, UserError
from mm_balance.functional.mixture import Mixture
from mm_balance.types import GapFit

FORMAT = 2
"""Checkpoint format; format 1 had neither sample ids nor the run's configuration."""
COMMENT = b"mm-balance sha256 "
"""Beginning of the comment of the archive; the digest follows, as 64 hexadecimal digits."""
DIGITS = 64
END_WITHOUT_COMMENT = 22
"""Bytes at the end of a zip archive that has no comment; the last two are the comment's length."""
END_SIGNATURE = b"PK\x05\x06"


def gap_fit_to_state(fit: GapFit) -> dict[str, Any]:
    """Convert a gap fit to tensors and primitives."""
    return {
        "epoch": fit.epoch,
        "samples_digest": fit.samples_digest,
        "labels": fit.labels,
        "probabilities": dict(fit.probabilities),
        "fused_probability": fit.fused_probability,
        "gaps": fit.gaps,
        "mixture": fit.mixture.to_json(),
        "posterior_imbalanced": fit.posterior_imbalanced,
        "source": fit.source,
        "doubts": dict(fit.doubts),
    }


def gap_fit_from_state(state: dict[str, Any]) -> GapFit:
    """Invert ``gap_fit_to_state``."""
    return GapFit(**{**state, "mixture": Mixture.from_json(state["mixture"])})


def validation_fit_from_state(state: dict[str, Any]) -> GapFit | None:
    """Return the validation fit of a stage's state; None = there was none, or the state is older than such fits."""
    saved = state.get("validation_refit")
    return None if saved is None else gap_fit_from_state(saved)


class Damaged(UserError):
    """A file is not, or no longer, what was written as a checkpoint."""


def write_checkpoint(state: dict[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Write ``state`` atomically (temporary file + rename): ``path`` is either the old or the new checkpoint, never a partial one.

    Args:
        state: the state.
        path: where to.
        previous: where to keep the checkpoint that ``path`` is now, if there is one; None = it is replaced.

    Raises:
        UserError: it cannot be written; ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _with_checksum({"format": FORMAT, **state})
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.is_file():
            _keep(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise Unwritable(
            f"cannot write the checkpoint {path}: {error.strerror}; the previous one is unchanged"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        Damaged: the file was changed or cut off after it was written, or never was a checkpoint.
        UserError: it is missing, cannot be read, or is of another version.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    _check(content, path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of a file without a checksum: anything, depending on the bit
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise Damaged(f"the checkpoint {path} cannot be read: {why}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version (format {FORMAT})")
    return state


def _with_checksum(state: dict[str, Any]) -> bytes:
    """Return the archive of ``state`` with its digest as comment."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(-2, io.SEEK_END)
    buffer.write((len(COMMENT) + DIGITS).to_bytes(2, "little"))
    buffer.write(COMMENT)
    buffer.write(hashlib.sha256(buffer.getbuffer()).hexdigest().encode())
    return buffer.getvalue()


def _check(content: bytes, path: Path) -> None:
    """Raise Damaged if ``content`` is not what was written; say so if nobody can know."""
    if content[:-DIGITS].endswith(COMMENT):
        with memoryview(content) as view:
            digest = hashlib.sha256(view[:-DIGITS]).hexdigest().encode()
        if content[-DIGITS:] == digest:
            return
    elif content[-END_WITHOUT_COMMENT:].startswith(END_SIGNATURE) and content.endswith(b"\0\0"):
        _say_unchecked()
        return
    raise Damaged(f"the checkpoint {path} cannot be read: it is damaged or incomplete (its checksum is wrong)")


@cache
def _say_unchecked() -> None:
    """Say once that a checkpoint has no checksum."""
    print(
        "mm-balance: a checkpoint of an older version has no checksum, so damage to it would not be noticed",
        file=sys.stderr,
    )


def _keep(path: Path, previous: Path) -> None:
    """Make the file ``path`` be ``previous``, too: by a link, since checkpoints are large and never written into."""
    new = previous.with_name(f".{previous.name}-{os.getpid()}")
    new.unlink(missing_ok=True)
    try:
        os.link(path, new)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, new)
    os.replace(new, previous)
