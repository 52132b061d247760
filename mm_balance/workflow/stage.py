"""One training stage on one run: build, resume where there is a checkpoint, train, publish the result."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from mm_balance import names
from mm_balance.config import Config
from mm_balance.data import MultimodalData
from mm_balance.engine import loop
from mm_balance.engine.recorder import Point
from mm_balance.engine.step import Stepper, build_optimizer
from mm_balance.engine.survey import refit_probabilities
from mm_balance.errors import UserError
from mm_balance.functional.schedules import learning_rate_factor
from mm_balance.methods import build_method, find_method, parse_options
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import seed_everything
from mm_balance.tracking.environment import environment
from mm_balance.tracking.recorder import MlflowRecorder
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import Clock
from mm_balance.workflow.setup import resolve_device, run_tags, work_folder

STAGE2_METHOD = "gap_mixture"
Watch = Callable[[Point], None]
HELD_OUT_SEED = 0
"""Which part of train a method keeps back is the same for all runs, like the data themselves."""
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass
class StageResult:
    """A stage that ended.

    Attributes:
        stage: with the selected weights in its model.
        progress: where it ended.
        epoch: epoch of the selected weights.
        run: its run.
    """

    stage: loop.Stage
    progress: loop.Progress
    epoch: int
    run: TrackedRun


def train_warmup(config: Config, data: MultimodalData, run: TrackedRun, stop: Callable[[], bool]) -> StageResult:
    """Stage 1 (Eq. 7, reconstructed), then the first survey and a two-component fit."""
    plan = StagePlan(
        method="concat_unimodal",
        settings={"unimodal_weight": config.warmup_unimodal_weight},
        epochs=config.warmup_epochs,
        refit_every=None,
        mixture="two",
        learning_rate=config.learning_rate,
        anneal_rate=False,  # stage 1 stays constant under `cosine`
    )
    stage = build_stage(config, data, plan, title="warm-up")
    return _train(config, stage, run, "warmup", stop, lambda: loop.Progress(), select_best=False)


def train_stage2(
    config: Config,
    data: MultimodalData,
    run: TrackedRun,
    stop: Callable[[], bool],
    *,
    warmup: TrackedRun,
    method: str = STAGE2_METHOD,
    watch: Watch | None = None,
) -> StageResult:
    """Stage 2 from the end of ``warmup``: adaptive training, or another method on the same footing.

    With ``watch`` it is a trial of a study: every point is shown to it, and checkpoints stay on this machine.

    Raises:
        UserError: ``optimizer_state=keep`` with another optimiser than the warm-up's.
    """
    plan = StagePlan(
        method=method,
        settings=asdict(config),
        epochs=config.adaptive_epochs,
        refit_every=config.refit_every,
        mixture=config.mixture,
        learning_rate=config.adaptive_learning_rate,
    )
    name = "adaptive" if method == STAGE2_METHOD else method
    stage = build_stage(config, data, plan, title=name)
    start = _start(config, stage, run, warmup)
    best = config.selection == "best_validation"
    return _train(config, stage, run, name, stop, start, select_best=best, watch=watch)


def train_method(
    config: Config,
    data: MultimodalData,
    run: TrackedRun,
    stop: Callable[[], bool],
    *,
    warmup: TrackedRun | None,
    watch: Watch | None = None,
) -> StageResult:
    """One stage of ``config.method``, from scratch or from the end of ``warmup``; ``watch`` as of ``train_stage2``.

    Raises:
        UserError: as ``train_stage2``; an unknown method or option; data or fusion that the method cannot use.
    """
    method = find_method(config.method)
    plan = StagePlan(
        method=config.method,
        settings=parse_options(config.method, method.Options, config.method_options),
        epochs=config.epochs,
        refit_every=config.refit_every,
        mixture=config.mixture,
        learning_rate=config.learning_rate,
    )
    stage = build_stage(config, data, plan, title=config.method)
    start = _start(config, stage, run, warmup)
    best = config.selection == "best_validation"
    return _train(config, stage, run, "train", stop, start, select_best=best, watch=watch)


@dataclass(frozen=True)
class StagePlan:
    """What a stage trains: method, its settings by option name, and the parameters that differ between stages.

    Attributes:
        anneal_rate: whether ``learning_rate_schedule=cosine`` falls over this stage.
    """

    method: str
    settings: Mapping[str, Any]
    epochs: int
    refit_every: int | None
    mixture: str
    learning_rate: float
    anneal_rate: bool = True


def build_stage(config: Config, data: MultimodalData, plan: StagePlan, *, title: str) -> loop.Stage:
    """Data, network, method and optimiser of a stage, with fresh weights.

    Raises:
        UserError: an unknown method; data or fusion that it cannot use.
    """
    seed_everything(config.seed)
    device = resolve_device(config.device)
    data = data.with_held_out(find_method(plan.method).held_out, seed=HELD_OUT_SEED)
    method = build_method(plan.method, plan.settings, tuple(data.specs), len(data.splits["train"])).to(device)
    model = MultimodalNetwork(
        data.specs,
        len(data.classes),
        encoder=config.encoder,
        fusion=method.head(config.fusion),
        interaction=method.interaction,
    )
    # Channels last: made for tensor cores, and 5 to 20 % faster on CPUs too.
    model = model.to(device).to(memory_format=torch.channels_last)

    def stepper(network: nn.Module) -> Stepper:
        optimizer = build_optimizer(
            config.optimizer,
            network.parameters(),
            learning_rate=plan.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        return Stepper(optimizer, device, config.precision)

    def rate(clock: Clock) -> float:
        first_epoch = clock.epoch - clock.stage_epoch
        return plan.learning_rate * learning_rate_factor(
            config.learning_rate_schedule,
            epoch=clock.epoch,
            first_epoch=first_epoch,
            stage_epochs=clock.stage_epochs,
            hold=config.learning_rate_hold if plan.anneal_rate else first_epoch + clock.stage_epochs,
            step=config.learning_rate_step,
            decay=config.learning_rate_decay,
        )

    return loop.Stage(
        model=model,
        method=method,
        stepper=stepper(model),
        data=data,
        device=device,
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=plan.epochs,
        refit_every=plan.refit_every,
        mixture=plan.mixture,
        learning_rate=rate,
        title=title,
        new_stepper=stepper,
    )


def _start(
    config: Config, stage: loop.Stage, run: TrackedRun, warmup: TrackedRun | None
) -> Callable[[], loop.Progress]:
    """Where a stage begins: at the end of ``warmup``, or from nothing."""

    def start() -> loop.Progress:
        if warmup is None:
            return loop.Progress()
        run.set_tags({"mm.warmup_run": warmup.run_id})
        state = _recorder(warmup, stage.data).load()
        if state is None:
            raise UserError(f"the warm-up run {warmup.run_id} has no readable checkpoint; run the warm-up again")
        fresh = stage.model.begin_from(state["model"])
        if fresh:
            run.set_tags({"mm.fresh_weights": ", ".join(fresh)[:500]})
        if config.optimizer_state == "keep":
            if fresh:
                raise UserError("optimizer_state=keep: the method brings a head that the warm-up did not train")
            try:
                stage.stepper.load_state_dict(state["stepper"])
            except ValueError as error:
                raise UserError(f"optimizer_state=keep: the warm-up used another optimiser ({error})") from error
        seen = loop.refit_from_state(state["refit"])
        if len(seen.labels) != len(stage.data.splits["train"]):
            return loop.Progress(first_epoch=seen.epoch)  # a part of train is held out: the fit is not of these samples
        first = refit_probabilities(seen.probabilities, seen.fused_probability, seen.labels, seen.epoch, config.mixture)
        return loop.Progress(first_epoch=seen.epoch, refit=first)

    return start


def _train(
    config: Config,
    stage: loop.Stage,
    run: TrackedRun,
    name: str,
    stop: Callable[[], bool],
    start: Callable[[], loop.Progress],
    *,
    select_best: bool,
    watch: Watch | None = None,
) -> StageResult:
    name = name if watch is None else "trial"
    recorder = _recorder(run, stage.data, watch)
    state = recorder.load()
    if state is None:
        progress = start()
        stage.method.prepare(stage.model)
        introduce(config, stage, run, name)
    else:
        if "mm.method" not in run.read().data.tags:  # a trial that takes over the checkpoint of another run
            introduce(config, stage, run, name)
        stage.method.prepare(stage.model)  # makes the buffers that the saved state fills
        progress = loop.restore(stage, state)
        recorder.reconcile(state)
        run.set_tags({"mm.resumed_from_epoch": progress.epoch})
    recorder.seconds = 0.0
    started = time.perf_counter()
    loop.fit(stage, progress, recorder, stop)
    training = time.perf_counter() - started - recorder.seconds - recorder.checkpoint_seconds
    epoch = progress.epoch
    best = recorder.load(names.CHECKPOINT_BEST) if select_best else None
    if best is not None:
        stage.model.load_state_dict(best["model"])
        epoch = best["epoch"]
    run.log_metrics(_closing_metrics(progress, recorder, training) | _cost_metrics(stage, progress), progress.epoch)
    return StageResult(stage, progress, epoch, run)


def introduce(config: Config, stage: loop.Stage, run: TrackedRun, name: str) -> None:
    """Say on the run what it is: tags, configuration, data, environment."""
    run.set_tags(run_tags(config, stage.data, name, stage.method.name))
    run.log_config(config)
    run.log_data(stage.data, "training")
    run.log_json(environment(), names.ENVIRONMENT_FILE)


def close(result: StageResult) -> None:
    """End the stage's run well; its local checkpoints are artifacts by now."""
    result.run.terminate("FINISHED")
    _recorder(result.run, result.stage.data).close()


def saved_points(run: TrackedRun, data: MultimodalData) -> list[Point]:
    """The points that a run has published, from its checkpoint."""
    state = _recorder(run, data).load()
    return [] if state is None else [Point(**point) for point in state["points"]]


def _closing_metrics(progress: loop.Progress, recorder: MlflowRecorder, training: float) -> dict[str, float]:
    last = next(point for point in reversed(progress.points) if "val/accuracy" in point.metrics)
    refits = recorder.refit_seconds
    return {
        "selection/last_epoch": progress.epoch,
        "selection/last_val_accuracy": last.metrics["val/accuracy"],
        "selection/best_epoch": progress.best_epoch,
        "selection/best_val_accuracy": progress.best_accuracy,
        "time/training_seconds": training,
        "time/checkpoint_seconds": recorder.checkpoint_seconds,
        "time/tracking_seconds": recorder.seconds,
        **({"time/refit_logging_seconds": sum(refits) / len(refits)} if refits else {}),
    }


def _cost_metrics(stage: loop.Stage, progress: loop.Progress) -> dict[str, float]:
    """What the stage cost, in units that compare methods."""
    forward, backward = stage.model.passes.totals()
    shown = len(stage.data.splits["train"]) * len(stage.model.modalities) * progress.stage_epoch
    memory = (
        torch.cuda.max_memory_allocated(stage.device)
        if stage.device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    )
    return {
        "cost/forward_passes": forward / shown,
        "cost/backward_passes": backward / shown,
        "cost/relative": (forward + 2 * backward) / (3 * shown),
        "cost/step_milliseconds": 1000 * progress.step_seconds / max(progress.steps, 1),
        "cost/peak_memory_megabytes": memory / 1e6,
    }


def _recorder(run: TrackedRun, data: MultimodalData, watch: Watch | None = None) -> MlflowRecorder:
    train = data.splits["train"]
    corrupted = train.corrupted if data.truth_known else None
    recorder = MlflowRecorder(run, work_folder(run.run_id), train.samples, corrupted, upload=watch is None)
    recorder.watch = watch or recorder.watch
    return recorder
