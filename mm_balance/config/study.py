"""Every parameter of a study, declared like those of a run; ``study`` takes these beside the parameters of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mm_balance.config.options import AUTO, NONE, declare, declared_in


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is searched, how, and by whom. ``None`` stands for ``none``, ``auto`` is resolved by ``mm_balance.study``."""

    study_name: str = declare(
        AUTO,
        group="study",
        help="name in the storage; `auto` = data set, method, search and a hash of all settings: the same command goes on",
    )
    search: str = declare(
        "anneal_and_weights",
        group="study",
        help="what is searched: a set of parameters, the options of `method` (`method`), or what `space` names (`space`)",
        choices=("anneal", "weights", "anneal_and_weights", "form", "optimizer", "method", "space"),
    )
    space: str | None = declare(
        NONE,
        group="study",
        help="dimensions to add or to change: `gap_weight=0.01:2:log,anneal=cosine|linear`; a single value fixes one",
    )
    trials: int = declare(
        40, group="study", help="trials of the study in all; continuing it may raise them", minimum=1, may_grow=True
    )
    objective: str = declare(
        AUTO,
        group="study",
        help="validation metric; `auto` = val/accuracy; two with a comma make a Pareto front: `val/accuracy,val/gap_mean_abs`",
    )
    sampler: str = declare(
        "tpe",
        group="study",
        help="Optuna's sampler: tree-structured Parzen estimator, random, quasi-random, Gaussian process, NSGA-II",
        choices=("tpe", "random", "qmc", "gp", "nsga2"),
    )
    pruner: str = declare(
        "hyperband",
        group="study",
        help="Optuna's pruner, fed with the objective after every epoch (none where there are two objectives)",
        choices=("hyperband", "median", "none"),
    )
    workers: int = declare(
        AUTO,
        group="study",
        help="worker processes in all; `auto` = one for each device, two on a CPU",
        minimum=1,
        of_the_machine=True,
    )
    devices: str = declare(
        AUTO,
        group="study",
        help="`auto` = every CUDA device, else `cpu`; or CUDA devices by number: `0,1,3`",
        of_the_machine=True,
    )
    storage: str = declare(
        AUTO,
        group="study",
        help="`auto` = a journal file in the cache folder; a path ending in .journal; `postgresql://...`; `grpc://host:port`",
        of_the_machine=True,
    )
    worker_restarts: int = declare(
        3,
        group="study",
        help="how often, in all, a worker process that died is replaced",
        minimum=0,
        of_the_machine=True,
    )
    confirm_seeds: int = declare(
        0,
        group="study",
        help="new seeds on which the best trial and the configuration that the study began from are trained again",
        minimum=0,
        may_grow=True,
    )


def study_options() -> dict[str, Any]:
    """Every parameter of ``StudyConfig`` by name."""
    return declared_in(StudyConfig)
