"""Data, device and folders of a stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from mm_balance.config import AUTO, Config, format_value
from mm_balance.data import Corruption, DecodeSettings, MultimodalData, load_data, load_outside, plant
from mm_balance.errors import UserError
from mm_balance.folders import cache_folder

DATA_SEED = 0
"""Data sampling is the same for all runs; ``seed`` affects training only."""
HELD_OUT_SEED = 0
"""The training samples that a method holds out are the same for all runs, like the data themselves."""


def read_data(config: Config, stop: Callable[[], bool] = lambda: False) -> MultimodalData:
    """Read and check the data set of ``config``, apply ``train_fraction``, and print what is suspicious about the data.

    The clips of a manifest are decoded on first use; ``stop`` interrupts that.

    Raises:
        UserError: as ``load_data``, or ``train_fraction`` is less than one sample.
    """
    data = load_data(
        config.data.dataset,
        seed=DATA_SEED,
        visual_difficulty=config.digits.visual_difficulty,
        corruption=corruption_of(config),
        protocol=config.data.protocol,
        modalities=tuple(config.data.modalities.split(",")),
        label_separator=config.data.label_separator,
        on_error=config.data.on_error,
        allow_outside=config.data.allow_outside,
        input_config=config.input,
        work=decoding(config, stop),
    )
    return _reduced(data, config)


def data_at_hand(data: MultimodalData, config: Config) -> MultimodalData:
    """Check data that were not read but given, and do with them what ``read_data`` does.

    Raises:
        UserError: their parts do not fit together, or as ``read_data``.
    """
    chosen = load_outside(lambda: data, tuple(data.specs), f"the data set {data.name}")
    return _reduced(plant(chosen, corruption_of(config), config.input, seed=DATA_SEED), config)


def _reduced(data: MultimodalData, config: Config) -> MultimodalData:
    """Apply ``train_fraction``, and print what is suspicious about the data."""
    for warning in data.warnings:
        print(f"mm-balance: warning: {config.data.dataset}: {warning}", file=sys.stderr)
    fraction, samples = config.data.train_fraction, len(data.splits["train"])
    if round(fraction * samples) == 0:
        raise UserError(
            f"train_fraction={format_value(fraction)} of {samples:,} training samples is none; give at least {1 / samples:.2g}"
        )
    return data.with_train_fraction(fraction, seed=DATA_SEED)


def corruption_of(config: Config) -> Corruption:
    """Return what the run corrupts on purpose."""
    chosen = config.corruption
    return Corruption(chosen.corruption, chosen.corruption_kind, chosen.corruption_modality)


def decoding(config: Config, stop: Callable[[], bool]) -> DecodeSettings:
    """Return the location of stores, and how to fill them. Raises UserError if ``data_dir`` is something else than a folder."""
    folder = cache_folder() / "data" if config.data.data_dir == AUTO else Path(config.data.data_dir).expanduser()
    if not _may_be_folder(folder):
        raise UserError(f"data_dir={str(folder)[:100]!r} cannot be a folder; give one, which is made if it is missing")
    return DecodeSettings(
        data_dir=folder,
        workers=None if config.prepare.workers == AUTO else config.prepare.workers,
        stop=stop,
    )


def _may_be_folder(path: Path) -> bool:
    """Whether ``path`` is a folder, or could be made as one."""
    try:
        if not os.path.lexists(path):
            os.stat(path)
        return path.is_dir()
    except FileNotFoundError:
        return next(parent for parent in path.absolute().parents if parent.exists()).is_dir()
    except (OSError, ValueError):  # below a file, a name that is too long, a NUL character
        return False


def resolve_device(device: str) -> torch.device:
    """Return the device; ``auto`` = CUDA if available. Raises UserError for a device that this machine lacks."""
    if device == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: this machine has {torch.cuda.device_count()} CUDA device(s); use device=cpu")
    return chosen
