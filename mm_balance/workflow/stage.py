"""One training stage on one run: build, resume where there is a checkpoint, train, publish the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mm_balance import names
from mm_balance.data import MultimodalData
from mm_balance.engine import loop
from mm_balance.engine.cost import peak_memory_bytes
from mm_balance.engine.predictions import fit_gaps_from_probabilities
from mm_balance.engine.recorder import MetricPoint, OnPoint, ignore_point
from mm_balance.engine.step import EngineOptimizerStep, build_optimizer
from mm_balance.errors import UserError
from mm_balance.functional.schedules import learning_rate_factor
from mm_balance.methods import build_method, find_method
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import seed_everything, set_numerics
from mm_balance.tracking.environment import environment
from mm_balance.tracking.recorder import MlflowRecorder
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import Clock
from mm_balance.workflow.card import log_data
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.provenance import FollowedWarmup, Provenance
from mm_balance.workflow.setup import HELD_OUT_SEED, resolve_device, work_folder


@dataclass
class StageResult:
    """A stage that ended.

    Attributes:
        plan: what was to be trained.
        stage: with the selected weights in its model.
        progress: where it ended.
        epoch: epoch of the selected weights.
        run: its run.
    """

    plan: StagePlan
    stage: loop.Stage
    progress: loop.Progress
    epoch: int
    run: TrackedRun


def train_stage(
    plan: StagePlan,
    data: MultimodalData,
    run: TrackedRun,
    stop: Callable[[], bool],
    *,
    warmup: TrackedRun | None = None,
    as_trial: bool = False,
    on_point: OnPoint = ignore_point,
) -> StageResult:
    """Train what ``plan`` says on ``run``, from the end of ``warmup`` or from scratch; go on where the run has a checkpoint.

    Args:
        plan: what to train.
        data: what to train on.
        run: its run.
        stop: asked after every batch.
        warmup: the run to start from; not needed for a run that has a checkpoint, which it goes on from.
        as_trial: whether it is a trial of a study: its run is of stage ``trial``, and its checkpoints stay on this machine.
        on_point: called with every point; it may end the stage by an exception.

    Raises:
        UserError: data or fusion that the method cannot use; ``optimizer_state=keep`` with another optimizer than the warm-up's; a
            warm-up or checkpoint of other samples.
        Interrupted: a stop was requested; the checkpoint is saved.
    """
    name = "trial" if as_trial else plan.stage
    stage = build_stage(plan, data, title=name)
    recorder = _recorder(run, stage, as_trial=as_trial, on_point=on_point)
    state = recorder.load()
    if state is None:
        progress = _begin(plan, stage, run, warmup)
        stage.method.prepare(stage.model)
        followed = None if warmup is None else FollowedWarmup.of(warmup)
        provenance = Provenance.new(plan, stage.method, followed)
        stage.record = provenance.to_state()
    else:
        stage.method.prepare(stage.model)  # makes the buffers that the saved state fills
        progress = loop.restore(stage, state)
        provenance = Provenance.from_state(state["record"]).continued(plan, stage.method, progress.epoch)
        stage.record = provenance.to_state()
        recorder.go_on(state)
        if stage.record != state["record"]:
            # First here, then on the run: what the run says of itself can always be told from its checkpoint.
            recorder.save(loop.capture(stage, progress))
    log_run_header(run, provenance, stage, name, resumed_at=None if state is None else progress.epoch)
    if state is not None:
        recorder.reconcile(state)
        _save_lost_best(stage, progress, recorder)
    try:
        loop.fit(stage, progress, recorder, stop)
    except RuntimeError as error:
        if not (plan.config.run.deterministic and "deterministic" in str(error)):
            raise
        raise UserError(
            f"deterministic=true: {str(error).splitlines()[0]}; start anew with deterministic=false"
        ) from error
    epoch = _select_best(stage, progress, recorder) if plan.select_best else progress.epoch
    run.log_metrics(_closing_metrics(progress, recorder) | _cost_metrics(stage, progress), progress.epoch)
    return StageResult(plan, stage, progress, epoch, run)


def build_stage(plan: StagePlan, data: MultimodalData, *, title: str) -> loop.Stage:
    """Data, network, method and optimizer of a stage, with fresh weights.

    Raises:
        UserError: an unknown method; data or fusion that it cannot use.
    """
    run, optimization = plan.config.run, plan.config.optimization
    seed_everything(run.seed)
    device = resolve_device(run.device)
    set_numerics(device, deterministic=run.deterministic)
    data = data.with_held_out(find_method(plan.method).held_out, seed=HELD_OUT_SEED)
    method = build_method(plan.method, plan.options, tuple(data.specs), len(data.splits["train"])).to(device)
    model = MultimodalNetwork(
        data.specs,
        len(data.classes),
        encoder=plan.config.model.encoder,
        fusion=method.head(plan.config.model.fusion),
        interaction=method.interaction,
    )
    model.describe()  # a head that cannot be imported where the model is loaded is reported now, not after training
    # Channels last: made for tensor cores, and 5 to 20 % faster on CPUs too.
    model = model.to(device).to(memory_format=torch.channels_last)

    def optimizer_step(network: nn.Module) -> EngineOptimizerStep:
        optimizer = build_optimizer(
            optimization.optimizer,
            network.parameters(),
            learning_rate=plan.learning_rate,
            momentum=optimization.momentum,
            weight_decay=optimization.weight_decay,
        )
        return EngineOptimizerStep(optimizer, device, run.precision)

    def rate(clock: Clock) -> float:
        first_epoch = clock.epoch - clock.stage_epoch
        return plan.learning_rate * learning_rate_factor(
            optimization.learning_rate_schedule,
            epoch=clock.epoch,
            first_epoch=first_epoch,
            stage_epochs=clock.stage_epochs,
            hold=optimization.learning_rate_hold if plan.anneal_rate else first_epoch + clock.stage_epochs,
            step=optimization.learning_rate_step,
            decay=optimization.learning_rate_decay,
        )

    return loop.Stage(
        model=model,
        method=method,
        optimizer_step=optimizer_step(model),
        data=data,
        device=device,
        batch_size=optimization.batch_size,
        seed=run.seed,
        epochs=plan.epochs,
        refit_every=plan.refit_every,
        mixture=plan.mixture,
        learning_rate=rate,
        title=title,
        new_optimizer_step=optimizer_step,
    )


def _begin(plan: StagePlan, stage: loop.Stage, run: TrackedRun, warmup: TrackedRun | None) -> loop.Progress:
    """Where a stage begins: at the end of ``warmup``, or from nothing."""
    if warmup is None:
        return loop.Progress()
    state = saved_state(warmup)
    if state is None:
        raise UserError(f"the warm-up run {warmup.run_id} has no checkpoint; run the warm-up again")
    loop.check_samples(stage.data, state["samples_digest"], f"the warm-up run {warmup.run_id}")
    fresh = stage.model.initialize_from(state["model"])
    if fresh:
        run.set_tags({"mm.fresh_weights": ", ".join(fresh)[:500]})
    if plan.config.stage.optimizer_state == "keep":
        if fresh:
            raise UserError("optimizer_state=keep: the method brings a head that the warm-up did not train")
        try:
            stage.optimizer_step.load_state_dict(state["stepper"])
        except ValueError as error:
            raise UserError(f"optimizer_state=keep: the warm-up used another optimizer ({error})") from error
    seen = loop.gap_fit_from_state(state["refit"])
    first = fit_gaps_from_probabilities(
        seen.probabilities,
        seen.fused_probability,
        seen.labels,
        seen.epoch,
        plan.mixture,
        samples_digest=seen.samples_digest,
    )
    return loop.Progress(first_epoch=seen.epoch, gap_fit=first)


def _save_lost_best(stage: loop.Stage, progress: loop.Progress, recorder: MlflowRecorder) -> None:
    """The process that ended the best epoch died before it had saved its weights a second time, as the best."""
    if progress.batch or not progress.stage_epoch or progress.best_epoch != progress.epoch:
        return
    best = recorder.load(names.CHECKPOINT_BEST)
    if best is None or best["epoch"] != progress.best_epoch:
        recorder.save_best(loop.best_state(stage, progress))


def _select_best(stage: loop.Stage, progress: loop.Progress, recorder: MlflowRecorder) -> int:
    """Put the weights of the best validation epoch into the model; returns that epoch."""
    best = recorder.load(names.CHECKPOINT_BEST)
    if best is None or best["epoch"] != progress.best_epoch:
        found = "missing" if best is None else f"of epoch {best['epoch']}"
        raise UserError(
            f"selection=best_validation: run {recorder.run.run_id} was best after epoch {progress.best_epoch}, but the saved best "
            f"weights are {found}; train again, or take selection=last"
        )
    stage.model.load_state_dict(best["model"])
    return progress.best_epoch


def log_run_header(
    run: TrackedRun, provenance: Provenance, stage: loop.Stage, name: str, *, resumed_at: int | None = None
) -> None:
    """Say on the run what it is: tags, configuration, data, environment; of a run that goes on, what it is from now on."""
    run.set_tags(provenance.tags(stage.data, name, stage.method))
    run.log_config(provenance.config)
    run.log_params(provenance.parameters() | provenance.foreign_warmup())
    log_data(run, stage.data, "training")
    if resumed_at is None:
        run.log_json(environment(), names.ENVIRONMENT_FILE)
    else:
        run.set_tags({"mm.resumed_from_epoch": resumed_at})
        run.log_json(environment(), names.resumed_environment_file(resumed_at))


def saved_state(run: TrackedRun) -> dict[str, Any] | None:
    """The newest checkpoint of a run; None = it has none yet. Raises UserError where none can be read."""
    return MlflowRecorder(run, work_folder(run.run_id), (), None).load()


def close(result: StageResult) -> None:
    """End the stage's run well; its local checkpoints are artifacts by now."""
    result.run.terminate("FINISHED")
    _recorder(result.run, result.stage).close()


def saved_points(run: TrackedRun) -> list[MetricPoint]:
    """The points that a run has published, from its checkpoint."""
    state = saved_state(run)
    return [] if state is None else [MetricPoint(**point) for point in state["points"]]


def _closing_metrics(progress: loop.Progress, recorder: MlflowRecorder) -> dict[str, float]:
    last = next(point for point in reversed(progress.points) if "val/accuracy" in point.metrics)
    refits = recorder.refit_seconds
    return {
        "selection/last_epoch": progress.epoch,
        "selection/last_val_accuracy": last.metrics["val/accuracy"],
        "selection/best_epoch": progress.best_epoch,
        "selection/best_val_accuracy": progress.best_accuracy,
        "time/training_seconds": progress.training_seconds,
        "time/checkpoint_seconds": recorder.checkpoint_seconds,
        "time/tracking_seconds": recorder.seconds,
        **({"time/refit_logging_seconds": sum(refits) / len(refits)} if refits else {}),
    }


def _cost_metrics(stage: loop.Stage, progress: loop.Progress) -> dict[str, float]:
    """What the stage cost, in units that compare methods."""
    forward, backward = stage.model.passes.totals()
    shown = len(stage.data.splits["train"]) * len(stage.model.modalities) * progress.stage_epoch
    memory = max(progress.peak_memory, peak_memory_bytes(stage.device))
    return {
        "cost/forward_passes": forward / shown,
        "cost/backward_passes": backward / shown,
        "cost/relative": (forward + 2 * backward) / (3 * shown),
        "cost/step_milliseconds": 1000 * progress.step_seconds / max(progress.steps, 1),
        "cost/peak_memory_megabytes": memory / 1e6,
    }


def _recorder(
    run: TrackedRun, stage: loop.Stage, *, as_trial: bool = False, on_point: OnPoint = ignore_point
) -> MlflowRecorder:
    train = stage.data.splits["train"]
    return MlflowRecorder(
        run,
        work_folder(run.run_id),
        train.samples,
        train.corrupted if stage.data.truth_known else None,
        branches=stage.method.sees_others(),
        upload=not as_trial,
        on_point=on_point,
    )
