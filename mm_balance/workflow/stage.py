"""One training stage on one run: build, resume from a checkpoint if there is one, train, log the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mm_balance import names
from mm_balance.data import MultimodalData
from mm_balance.engine import loop
from mm_balance.engine.cost import peak_memory_bytes
from mm_balance.engine.recorder import MetricPoint, OnPoint, ignore_point
from mm_balance.errors import UserError
from mm_balance.folders import work_folder
from mm_balance.tracking.environment import environment
from mm_balance.tracking.recorder import MlflowRecorder
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.build import begin_from, build_stage
from mm_balance.workflow.card import log_data
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.provenance import FollowedWarmup, Provenance


@dataclass
class StageResult:
    """A finished stage.

    Attributes:
        plan: what was trained.
        stage: the stage, with the selected weights in its model.
        progress: progress at the end.
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
    """Train ``plan`` on ``run``, from the end of ``warmup`` or from scratch; resume if the run has a checkpoint.

    Args:
        plan: what to train.
        data: the data set.
        run: the run to log to.
        stop: polled after every batch.
        warmup: the run to start from; not needed for a run that has a checkpoint.
        as_trial: whether it is a trial of a study: its run has the stage ``trial``, and its checkpoints stay on this machine.
        on_point: called with every metric point; may end the stage by raising an exception.

    Raises:
        UserError: data or fusion that the method cannot use; ``optimizer_state=keep`` with another optimizer than the warm-up's; a
            warm-up or checkpoint of other training samples.
        Interrupted: a stop was requested; the checkpoint is saved.
    """
    name = "trial" if as_trial else plan.stage
    stage = build_stage(plan, data, title=name)
    for modality, loaded in stage.model.pretrained.items():
        print(f"mm-balance: pretrained weights: {modality}: {loaded.text()}")
    recorder = _recorder(run, stage, as_trial=as_trial, on_point=on_point)
    state = recorder.load()
    if state is None:
        progress = _begin(plan, stage, run, warmup)
        stage.method.prepare(stage.model)
        followed = None if warmup is None else FollowedWarmup.of(warmup)
        provenance = Provenance.new(plan, stage.method, followed)
        stage.record = provenance.to_state()
    else:
        stage.method.prepare(stage.model)  # creates the buffers that the saved state fills
        progress = loop.restore(stage, state)
        provenance = Provenance.from_state(state["record"]).continued(plan, stage.method, progress.epoch)
        stage.record = provenance.to_state()
        recorder.restore_clocks(state)
        if stage.record != state["record"]:
            # Checkpoint first, then the run: a checkpoint must cover everything that its run records.
            recorder.save(loop.capture(stage, progress))
    log_run_header(run, provenance, stage, name, resumed_at=None if state is None else progress.epoch)
    if state is not None:
        # A killed process may have saved a checkpoint, but not published it.
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


def _begin(plan: StagePlan, stage: loop.Stage, run: TrackedRun, warmup: TrackedRun | None) -> loop.Progress:
    """Return the starting point of a stage: the end of ``warmup``, or scratch."""
    if warmup is None:
        return loop.Progress()
    state = saved_state(warmup)
    if state is None:
        raise UserError(f"the warm-up run {warmup.run_id} has no checkpoint; run the warm-up again")
    progress, fresh = begin_from(plan, stage, state, f"the warm-up run {warmup.run_id}")
    if fresh:
        run.set_tags({"mm.fresh_weights": ", ".join(fresh)[:500]})
    return progress


def _save_lost_best(stage: loop.Stage, progress: loop.Progress, recorder: MlflowRecorder) -> None:
    """Save the best weights if the process that finished the best epoch died before it could."""
    if progress.batch or not progress.stage_epoch or progress.best_epoch != progress.epoch:
        return
    best = recorder.load(names.CHECKPOINT_BEST)
    if best is None or best["epoch"] != progress.best_epoch:
        recorder.save_best(loop.best_state(stage, progress))


def _select_best(stage: loop.Stage, progress: loop.Progress, recorder: MlflowRecorder) -> int:
    """Load the weights of the best validation epoch into the model; return that epoch."""
    best = recorder.load(names.CHECKPOINT_BEST)
    if best is None or best["epoch"] != progress.best_epoch:
        actual = "missing" if best is None else f"from epoch {best['epoch']}"
        raise UserError(
            f"selection=best_validation: run {recorder.run.run_id} was best after epoch {progress.best_epoch}, but the saved best "
            f"weights are {actual}; train again, or use selection=last"
        )
    stage.model.load_state_dict(best["model"])
    return progress.best_epoch


def log_run_header(
    run: TrackedRun, provenance: Provenance, stage: loop.Stage, name: str, *, resumed_at: int | None = None
) -> None:
    """Log tags, configuration, data and environment of the run, anew for a resumed run."""
    run.set_tags(provenance.tags(stage.data, name, stage.method))
    run.log_config(provenance.config)
    run.log_params(provenance.parameters() | provenance.warmup_differences())
    log_data(run, stage.data, "training", provenance.config["dataset"])
    if resumed_at is None:
        run.log_json(environment(), names.ENVIRONMENT_FILE)
    else:
        run.set_tags({"mm.resumed_from_epoch": resumed_at})
        run.log_json(environment(), names.resumed_environment_file(resumed_at))


def saved_state(run: TrackedRun) -> dict[str, Any] | None:
    """Return the newest checkpoint of a run; None = none yet. Raises UserError if there are some, but none can be read."""
    return MlflowRecorder(run, work_folder(run.run_id), (), None).load()


def close(result: StageResult) -> None:
    """End the run of a finished stage, and delete its local checkpoints, which are artifacts by now."""
    result.run.terminate("FINISHED")
    _recorder(result.run, result.stage).close()


def saved_points(run: TrackedRun) -> list[MetricPoint]:
    """Return the metric points that a run has published, from its checkpoint."""
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
    """Return the cost of the stage, in units comparable between methods."""
    forward, backward = stage.model.passes.totals()
    samples_shown = len(stage.data.splits["train"]) * len(stage.model.modalities) * progress.stage_epoch
    memory = max(progress.peak_memory, peak_memory_bytes(stage.device))
    return {
        "cost/forward_passes": forward / samples_shown,
        "cost/backward_passes": backward / samples_shown,
        "cost/relative": (forward + 2 * backward) / (3 * samples_shown),
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
        validation_samples=stage.data.splits["val"].samples,
        branches=stage.method.sees_others(),
        upload=not as_trial,
        on_point=on_point,
    )
