"""What a stage trains, decided from the configuration in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mm_balance.config import ADAPTIVE_METHOD, Config, MethodOptions
from mm_balance.methods import find_method, parse_options

WARMUP_METHOD = "concat_unimodal"


@dataclass(frozen=True)
class StagePlan:
    """What a stage trains.

    Attributes:
        config: the configuration.
        stage: key of ``STAGES``: whose parameters apply to it.
        method: its method.
        options: of the method, an instance of its ``Options``.
        epochs: length of the stage.
        refit_every: epochs between two gap fits; None = one, after the last epoch.
        mixture: kind of mixture.
        learning_rate: initial learning rate of the stage.
        anneal_rate: whether ``learning_rate_schedule=cosine`` falls over this stage.
        select_best: whether the weights of the best validation epoch are the result, not the last ones.
    """

    config: Config
    stage: str
    method: str
    options: Any
    epochs: int
    refit_every: int | None
    mixture: str
    learning_rate: float
    anneal_rate: bool = True
    select_best: bool = False


def warmup_plan(config: Config) -> StagePlan:
    """Stage 1 (Eq. 7, reconstructed), then the first gap fit, of two components."""
    return StagePlan(
        config,
        "warmup",
        method=WARMUP_METHOD,
        options=find_method(WARMUP_METHOD).Options(unimodal_weight=config.warmup.warmup_unimodal_weight),
        epochs=config.warmup.warmup_epochs,
        refit_every=None,
        mixture="two",
        learning_rate=config.optimization.learning_rate,
        anneal_rate=False,  # stage 1 stays constant under `cosine`
    )


def adaptive_plan(config: Config) -> StagePlan:
    """Stage 2 after a warm-up, of ``config.method``.

    Raises:
        UserError: an unknown method or option.
    """
    return StagePlan(
        config,
        "adaptive",
        method=config.method.method,
        options=method_options(config),
        epochs=config.adaptive.adaptive_epochs,
        refit_every=config.stage.refit_every,
        mixture=config.stage.mixture,
        learning_rate=config.adaptive.adaptive_learning_rate,
        select_best=config.selection.selection == "best_validation",
    )


def train_plan(config: Config) -> StagePlan:
    """One stage of ``config.method``, from scratch or after a warm-up.

    Raises:
        UserError: an unknown method or option.
    """
    return StagePlan(
        config,
        "train",
        method=config.method.method,
        options=method_options(config),
        epochs=config.train.epochs,
        refit_every=config.stage.refit_every,
        mixture=config.stage.mixture,
        learning_rate=config.optimization.learning_rate,
        select_best=config.selection.selection == "best_validation",
    )


def trial_plan(config: Config, *, after_warmup: bool) -> StagePlan:
    """What a trial of a study, or a row of a table, trains: stage 2 of the paper's method, or one stage of another one."""
    adaptive = config.method.method == ADAPTIVE_METHOD and after_warmup
    return adaptive_plan(config) if adaptive else train_plan(config)


def method_options(config: Config) -> Any:
    """The options of ``config.method``, an instance of its ``Options``: a group of the configuration, or read from ``method_options``.

    Raises:
        UserError: an unknown method or option.
    """
    method = config.method.method
    own = getattr(config, method, None)
    if isinstance(own, MethodOptions):
        return own
    declared = find_method(method).Options
    return declared(**parse_options(method, declared, config.method.method_options))
