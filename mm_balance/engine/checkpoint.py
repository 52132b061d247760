"""Checkpoints: the state of a stage as tensors and primitives, written atomically and read with ``weights_only=True``."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from mm_balance.errors import Unwritable, UserError
from mm_balance.functional.mixture import Mixture
from mm_balance.types import GapFit

FORMAT = 2
"""Checkpoint format; format 1 had neither sample ids nor the run's configuration."""


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


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` atomically (temporary file + rename): ``path`` is either the old or the new checkpoint, never a partial one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise Unwritable(
            f"cannot write the checkpoint {path}: {error.strerror}; the previous one is unchanged"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: file missing, truncated, not a checkpoint, or of another format.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"the checkpoint {path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version (format {FORMAT})")
    return state
