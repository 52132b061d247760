"""Stage plans: what a stage trains, derived from the configuration in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mm_balance.config import ADAPTIVE_METHOD, Config, MethodOptions
from mm_balance.errors import UserError
from mm_balance.methods import find_method, parse_options

WARMUP_METHOD = "concat_unimodal"


@dataclass(frozen=True)
class StagePlan:
    """What a stage trains.

    Attributes:
        config: the configuration.
        stage: key of ``STAGES`` whose parameters apply.
        method: name of the method.
        options: options of the method, an instance of its ``Options``.
        epochs: length of the stage.
        refit_every: epochs between two gap fits; None = one, after the last epoch.
        mixture: kind of mixture.
        learning_rate: initial learning rate of the stage.
        anneal_rate: whether ``learning_rate_schedule=cosine`` decays over this stage.
        select_best: whether the result is the weights of the best validation epoch instead of the last ones.
        gap_source: where the training samples' gaps come from.
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
    gap_source: str = "refit"


def warmup_plan(config: Config) -> StagePlan:
    """Plan stage 1 (Eq. 7, reconstructed), followed by the first gap fit, with two components."""
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
    """Plan stage 2 of ``config.method``, after a warm-up.

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
        gap_source=config.stage.gap_source,
    )


def train_plan(config: Config) -> StagePlan:
    """Plan a single stage of ``config.method``, from scratch or after a warm-up.

    Raises:
        UserError: an unknown method or option.
    """
    return replace(
        adaptive_plan(config),
        stage="train",
        epochs=config.train.epochs,
        learning_rate=config.optimization.learning_rate,
    )


def trial_plan(config: Config, *, after_warmup: bool) -> StagePlan:
    """Plan a trial of a study, or a row of a table: stage 2 of the paper's method, or one stage of another method."""
    adaptive = config.method.method == ADAPTIVE_METHOD and after_warmup
    return adaptive_plan(config) if adaptive else train_plan(config)


def method_options(config: Config) -> Any:
    """Return the options of ``config.method``, an instance of its ``Options``, from its own group or from ``method_options``.

    Raises:
        UserError: an unknown method or option.
    """
    method = config.method.method
    own = getattr(config, method, None)
    if isinstance(own, MethodOptions):
        return own
    declared = find_method(method).Options
    return declared(**parse_options(method, declared, config.method.method_options))


def check_takes_warmup(name: str, run_id: str | None = None) -> None:
    """Raise UserError if the method ``name`` cannot start from a warm-up (``run_id``), because it holds out training samples."""
    method = find_method(name)
    if not method.held_out:
        return
    warmup = f"the warm-up run {run_id}" if run_id else "a warm-up run"
    raise UserError(
        f"method={method.name} diagnoses on {method.held_out:.0%} of the training samples, which it holds out; {warmup} has "
        "trained on them: train the method from scratch with -e train, without warmup_run"
    )
