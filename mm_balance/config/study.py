"""Parameters of a study, declared like those of a run; ``study`` accepts them together with the training parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from mm_balance.config.option import AUTO, NONE, Option, declared_in, param


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Study: what is searched, how, and by which workers.

    ``None`` stands for ``none``; ``auto`` is resolved by ``mm_balance.study``.
    """

    study_name: str = param(
        AUTO,
        "name in the storage; `auto` = data set, method, search and a hash of all settings: the same command resumes it",
    )
    search: str = param(
        "anneal_and_weights",
        "what is searched: a set of parameters, the options of `method` (`method`), or what `space` names (`space`)",
        choices=("anneal", "weights", "anneal_and_weights", "form", "optimizer", "method", "space"),
    )
    space: str | None = param(
        NONE,
        "dimensions to add or to change: `gap_weight=0.01:2:log,anneal=cosine|linear`; a single value fixes one",
    )
    trials: int = param(
        40, "total number of trials; can be raised when the study is continued", minimum=1, may_grow=True
    )
    objective: str = param(
        AUTO,
        "validation metric; `auto` = val/accuracy; two, separated by a comma, give a Pareto front: `val/accuracy,val/gap_mean_abs`",
    )
    sampler: str = param(
        "tpe",
        "Optuna's sampler: tree-structured Parzen estimator, random, quasi-random, Gaussian process, NSGA-II",
        choices=("tpe", "random", "qmc", "gp", "nsga2"),
    )
    pruner: str = param(
        "hyperband",
        "Optuna's pruner, which sees the objective after every epoch (none with two objectives)",
        choices=("hyperband", "median", "none"),
    )
    workers: int = param(
        AUTO,
        "total number of worker processes; `auto` = one per device, two on a CPU",
        minimum=1,
        machine=True,
    )
    devices: str = param(
        AUTO,
        "`auto` = every CUDA device, else `cpu`; or CUDA devices by number: `0,1,3`",
        machine=True,
    )
    storage: str = param(
        AUTO,
        "`auto` = a journal file in the cache folder; a path ending in .journal; `postgresql://...`; `grpc://host:port`; "
        "`env:VARIABLE` = what this environment variable says, for a location with a password",
        machine=True,
    )
    worker_restarts: int = param(
        3,
        "maximum number of worker restarts, over all workers",
        minimum=0,
        machine=True,
    )
    confirm_seeds: int = param(
        0,
        "number of new seeds on which to retrain the best trial and the starting configuration",
        minimum=0,
        may_grow=True,
    )


@cache
def study_options() -> Mapping[str, Option]:
    """Return every parameter of ``StudyConfig`` by name."""
    return declared_in(StudyConfig, "study")
