"""Parameters of ``repair``, declared like those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from mm_balance.config.option import NONE, Option, declared_in, param


@dataclass(frozen=True, kw_only=True)
class RepairConfig:
    """Repair: what is closed, and whether anything is."""

    dry_run: bool = param(False, "only list what would be closed or removed")
    older_than_hours: float | None = param(
        NONE,
        "also close runs of which this machine cannot know whether their process lives, if nothing was logged for so long; none = "
        "only list them",
        minimum=0,
        exclusive=True,
    )


@cache
def repair_options() -> Mapping[str, Option]:
    """Return every parameter of ``RepairConfig`` by name."""
    return declared_in(RepairConfig, "repair")
