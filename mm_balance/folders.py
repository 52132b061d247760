"""Folders on this machine."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "MM_BALANCE_CACHE"


def cache_folder() -> Path:
    """Return the folder of prepared data, current checkpoints and logs that are pending: ``$MM_BALANCE_CACHE``, else the user's."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mm_balance"


def work_folder(run_id: str) -> Path:
    """Return the local folder of a run's checkpoints."""
    return cache_folder() / "runs" / run_id


def spool_folder() -> Path:
    """Return the folder of what is logged while a tracking server does not answer."""
    return cache_folder() / "spool"
