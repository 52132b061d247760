"""Parameters of ``reproduce``, declared like those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from mm_balance.config.option import AUTO, Option, declared_in, param


@dataclass(frozen=True, kw_only=True)
class ReproductionConfig:
    """Reproduction: which tables, on which data, with how many seeds."""

    preset: str = param(
        "digits",
        "data set whose tables are made; `manifest` = your own clips; `quick` = a few rows of every table of digits, to try it out",
        choices=("digits", "grid", "cremad", "ave", "kinetics_sounds", "manifest", "quick"),
    )
    tables: str = param(
        AUTO, "comma-separated names of tables: methods, ablation, optimizer, detection, regimes; `auto` = all"
    )
    seeds: int = param(3, "number of seeds of every row; can be raised later", minimum=1)
    first_seed: int = param(0, "the first of them, which count up", minimum=0)
    dry_run: bool = param(False, "print the plan and how long it would take, and train nothing")
    dataset: str = param(AUTO, "path of a manifest.csv to use instead of the prepared data set of `preset`")
    workers: int = param(AUTO, "runs at a time; `auto` = one per CUDA device, two on a CPU", minimum=1, machine=True)


@cache
def reproduction_options() -> Mapping[str, Option]:
    """Return every parameter of ``ReproductionConfig`` by name."""
    return declared_in(ReproductionConfig, "reproduction")
