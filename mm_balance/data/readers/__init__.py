"""Readers that convert raw downloads of published data sets to a manifest; one module per data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mm_balance.data.readers import ave, cremad, grid, kinetics_sounds
from mm_balance.data.readers.base import RawRow, RawSet, write_manifest
from mm_balance.errors import UserError

MODULES = (grid, cremad, ave, kinetics_sounds)
READERS: Mapping[str, Callable[[Path, str], RawSet]] = {module.NAME: module.read for module in MODULES}
PROTOCOLS: Mapping[str, tuple[str, ...]] = {module.NAME: module.PROTOCOLS for module in MODULES}

__all__ = ["PROTOCOLS", "READERS", "RawRow", "RawSet", "check_protocol", "read_raw", "write_manifest"]


def check_protocol(name: str, protocol: str) -> None:
    """Raise UserError if the data set has no such protocol."""
    if protocol not in PROTOCOLS[name]:
        raise UserError(f"protocol={protocol}: {name} supports only {', '.join(PROTOCOLS[name])}")


def read_raw(name: str, source: Path, *, protocol: str) -> RawSet:
    """Read the raw download of the data set ``name`` in the folder ``source``.

    Raises:
        UserError: unknown name or protocol, no such folder, or the folder is not that download.
    """
    if name not in READERS:
        raise UserError(f"dataset={name} is not known; give {', '.join(READERS)}")
    check_protocol(name, protocol)
    if not source.is_dir():
        raise UserError(f"source={source}: no such folder")
    return READERS[name](source, protocol)
