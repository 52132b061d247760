"""The training loop of a stage. Independent of concrete methods; all output goes through the recorder."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.engine.checkpoint import gap_fit_from_state, gap_fit_to_state, validation_fit_from_state
from mm_balance.engine.cost import Stopwatch, peak_memory_bytes, reset_peak_memory
from mm_balance.engine.evaluate import split_metrics
from mm_balance.engine.gap_sources import FOLDS, SeenProbabilities, loss_of_copies
from mm_balance.engine.inspector import EngineInspector
from mm_balance.engine.not_finite import LossGuard, first_not_finite
from mm_balance.engine.predictions import predict_split, truth_metrics
from mm_balance.engine.recorder import MetricPoint, Recorder
from mm_balance.engine.step import EngineOptimizerStep
from mm_balance.errors import Diverged, Interrupted, UserError
from mm_balance.functional.gap_fits import fit_gaps, fit_gaps_from_probabilities, gap_fit_metrics
from mm_balance.methods import Method
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import random_state, restore_random_state
from mm_balance.types import Clock, EpochPlan, GapFit


@dataclass
class Stage:
    """What a stage trains and how. The loop changes only the state of model, method and optimizer.

    Attributes:
        epochs: length of the stage.
        refit_every: epochs between refits; None = a single refit, after the last epoch.
        mixture: kind of mixture to fit.
        gap_source: where the training samples' gaps come from, see ``mm_balance.engine.gap_sources``.
        keep_seen: whether to keep running means of what training saw: for this stage's gaps, or for a stage that continues it.
        learning_rate: schedule, clock -> learning rate.
        title: label of the progress bar.
        new_optimizer_step: network -> a fresh optimizer for it, at the stage's initial learning rate.
        record: extra content of every checkpoint: configuration and environment, as primitives.
    """

    model: MultimodalNetwork
    method: Method
    optimizer_step: EngineOptimizerStep
    data: MultimodalData
    device: torch.device
    batch_size: int
    seed: int
    epochs: int
    refit_every: int | None
    mixture: str
    learning_rate: Callable[[Clock], float]
    title: str
    new_optimizer_step: Callable[[MultimodalNetwork], EngineOptimizerStep]
    gap_source: str = "refit"
    keep_seen: bool = False
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Progress:
    """Progress of a stage: everything that changes during training, besides model, method and optimizer.

    Attributes:
        first_epoch: epochs finished before this stage.
        stage_epoch: epochs finished in this stage.
        batch: batches finished in the current epoch; after an interruption not 0.
        sums: sums over the samples of the current epoch, loss part -> scalar tensor.
        left_out: samples of the current epoch that were left out because their batch's loss was not finite.
        seconds: training time of the current epoch.
        points: all metric points so far.
        gap_fit: the latest gap fit, of the training samples.
        validation_fit: the fit of the validation samples at the same time, to report; None = there is none. Nothing is trained on it.
        seen: probabilities that training saw; None = not kept.
        plan: the method's plan for the current epoch.
        steps: updates in this stage.
        step_seconds: training time of these updates.
        passes: passes through encoders in this stage, see ``PassCounter``.
        training_seconds: time over all processes of this stage: training, validation and split predictions, without tracking.
        peak_memory: peak memory of this stage over its processes in bytes, see ``peak_memory_bytes``.
        best_accuracy: best validation accuracy so far (-1 before the first).
        best_epoch: epoch of ``best_accuracy``.
    """

    first_epoch: int = 0
    stage_epoch: int = 0
    batch: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    left_out: int = 0
    seconds: float = 0.0
    points: list[MetricPoint] = field(default_factory=list)
    gap_fit: GapFit | None = None
    validation_fit: GapFit | None = None
    seen: SeenProbabilities | None = None
    plan: EpochPlan = field(default_factory=EpochPlan)
    steps: int = 0
    step_seconds: float = 0.0
    passes: dict[str, dict[str, int]] = field(default_factory=lambda: {"forward": {}, "backward": {}})
    training_seconds: float = 0.0
    peak_memory: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = 0

    @property
    def epoch(self) -> int:
        """Number of epochs finished, over both stages."""
        return self.first_epoch + self.stage_epoch


def capture(stage: Stage, progress: Progress) -> dict[str, Any]:
    """Return the full training state as tensors and primitives."""
    progress.passes = stage.model.passes.state_dict()
    progress.peak_memory = max(progress.peak_memory, peak_memory_bytes(stage.device))
    apart = ("points", "gap_fit", "validation_fit", "seen", "plan")
    plain = {name: value for name, value in vars(progress).items() if name not in apart}
    return {
        "model": stage.model.state_dict(),
        "method": stage.method.state_dict(),
        "stepper": stage.optimizer_step.state_dict(),
        "random": random_state(),
        "progress": plain,
        "plan": asdict(progress.plan),
        "points": [asdict(point) for point in progress.points],
        "refit": None if progress.gap_fit is None else gap_fit_to_state(progress.gap_fit),
        "validation_refit": None if progress.validation_fit is None else gap_fit_to_state(progress.validation_fit),
        "seen": None if progress.seen is None else progress.seen.to_state(),
        "samples_digest": stage.data.splits["train"].samples_digest,
        "record": dict(stage.record),
    }


def restore(stage: Stage, state: dict[str, Any]) -> Progress:
    """Restore ``state`` into the stage's model, method, optimizer and the global random generators.

    Raises:
        UserError: the state belongs to other training samples or another order of them; nothing is changed.
    """
    check_samples(stage.data, state["samples_digest"], "the checkpoint")
    stage.model.load_state_dict(state["model"])
    stage.method.load_state_dict(state["method"])
    stage.optimizer_step.load_state_dict(state["stepper"])
    restore_random_state(state["random"])
    progress = Progress(
        **state["progress"],
        plan=EpochPlan(**state["plan"]),
        points=[MetricPoint(**point) for point in state["points"]],
        gap_fit=None if state["refit"] is None else gap_fit_from_state(state["refit"]),
        validation_fit=validation_fit_from_state(state),
        seen=SeenProbabilities.from_state(state.get("seen"), stage.device),
    )
    stage.model.passes.load_state_dict(progress.passes)
    progress.sums = {name: value.to(stage.device) for name, value in progress.sums.items()}
    return progress


def check_samples(data: MultimodalData, samples_digest: str, what: str) -> None:
    """Check that state indexed by sample belongs to the training samples of ``data``, in the same order.

    Args:
        data: the current training data.
        samples_digest: digest of the samples that the state belongs to.
        what: name of the state in the error message.

    Raises:
        UserError: it belongs to other samples or another order.
    """
    current = data.splits["train"].samples_digest
    if current != samples_digest:
        raise UserError(
            f"{what} belongs to other training samples, or to the same in another order (digest of its sample ids "
            f"{samples_digest[:12]}, of {data.name} {current[:12]}); use the data it was trained on, or train it again"
        )


def fit(stage: Stage, progress: Progress, recorder: Recorder, stop_requested: Callable[[], bool]) -> None:
    """Train until the stage's last epoch.

    Per epoch: let the method plan, train, validate, refit if due, save, publish. ``stop_requested`` is polled after every batch.

    Raises:
        Interrupted: a stop was requested; the state is saved, even in the middle of an epoch.
        Diverged: the loss or a weight of the network is no longer finite.
    """
    loader = BatchLoader(stage.data.splits["train"], stage.batch_size, seed=stage.seed)
    reset_peak_memory(stage.device)
    if stage.keep_seen and progress.seen is None:
        progress.seen = SeenProbabilities.none_yet(
            stage.model.modalities, len(stage.data.splits["train"]), stage.device
        )
    if progress.gap_fit is not None and not progress.points:
        _publish_first_fit(stage, progress, recorder, stop_requested)
    bar = tqdm(
        total=stage.epochs * len(loader), initial=progress.stage_epoch * len(loader) + progress.batch,
        desc=stage.title, unit="batch", mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip
    with bar:
        while progress.stage_epoch < stage.epochs:
            watch = Stopwatch()
            clock = Clock(progress.epoch, progress.stage_epoch, stage.epochs)
            if progress.batch == 0:
                plan_epoch(stage, progress, clock, stop_requested)
                if progress.plan.samples is not None:
                    bar.total += loader.batches(len(progress.plan.samples)) - len(loader)
            metrics = _train_epoch(stage, progress, loader, recorder, clock, stop_requested, bar, watch)
            metrics |= progress.plan.notes
            if progress.seen is not None:
                progress.seen.end_epoch()
            progress.stage_epoch += 1
            progress.batch, progress.sums, progress.left_out, progress.seconds = 0, {}, 0, 0.0
            with stage.model.passes.paused():
                predictions = predict_split(
                    stage.model, stage.method, stage.data.splits["val"], stage.device, coalitions=True
                )
            metrics |= dict(split_metrics(predictions, "val"))
            fit_due = _fit_due(stage, progress.stage_epoch)
            if fit_due:
                measured = measure_gaps(
                    stage, progress.epoch, progress.gap_fit, seen=progress.seen, stop_requested=stop_requested
                )
                doubts = {name: doubt.detach().cpu() for name, doubt in stage.method.doubts().items()}
                progress.gap_fit = replace(measured, doubts=doubts)
                progress.validation_fit = fit_gaps(
                    predictions, progress.epoch, stage.mixture, previous=progress.validation_fit
                )
                metrics |= _gap_fit_metrics(stage, progress.gap_fit, progress.validation_fit)
            bar.set_postfix(val=f"{metrics['val/accuracy']:.3f}", refresh=False)
            if metrics["val/accuracy"] > progress.best_accuracy:
                progress.best_accuracy, progress.best_epoch = metrics["val/accuracy"], progress.epoch
            point = MetricPoint(progress.epoch, int(time.time() * 1000), metrics)
            progress.points.append(point)
            progress.training_seconds += watch.lap()
            recorder.save(capture(stage, progress))
            if progress.best_epoch == progress.epoch:
                recorder.save_best(best_state(stage, progress))
            if fit_due:
                recorder.publish(point, progress.gap_fit, progress.validation_fit)
            else:
                recorder.publish(point)


def best_state(stage: Stage, progress: Progress) -> dict[str, Any]:
    """Return the weights of the epoch that just ended, as the best so far.

    They are saved after the state that marks this epoch as best: if the process dies in between, they can be recovered from
    that state, and weights of an epoch that was lost do not remain: it is trained again.
    """
    return {"model": stage.model.state_dict(), "epoch": progress.epoch}


def plan_epoch(stage: Stage, progress: Progress, clock: Clock, stop_requested: Callable[[], bool]) -> None:
    """Let the method inspect the stage and plan the epoch."""
    inspector = inspector_at(stage, progress.gap_fit, clock, stop_requested)
    progress.plan = stage.method.refresh(stage.model, inspector, clock)
    if progress.plan.reset_optimizer:
        stage.optimizer_step.reset()


def inspector_at(
    stage: Stage, gap_fit: GapFit | None, clock: Clock, stop_requested: Callable[[], bool]
) -> EngineInspector:
    """Return an inspector of the stage at ``clock``."""
    return EngineInspector(
        model=stage.model, gap_fit=gap_fit, method=stage.method, data=stage.data, device=stage.device,
        batch_size=stage.batch_size, seed=stage.seed + 7919 * (clock.epoch + 1), new_optimizer_step=stage.new_optimizer_step,
        learning_rate=stage.learning_rate, clock=clock, stop_requested=stop_requested,
    )  # fmt: skip


def _train_epoch(
    stage: Stage,
    progress: Progress,
    loader: BatchLoader,
    recorder: Recorder,
    clock: Clock,
    stop_requested: Callable[[], bool],
    bar: tqdm,
    watch: Stopwatch,
) -> dict[str, float]:
    learning_rate = stage.learning_rate(clock)
    stage.optimizer_step.set_learning_rate(learning_rate)
    stage.model.train()
    started = time.perf_counter()
    plan = progress.plan
    samples = len(stage.data.splits["train"] if plan.samples is None else plan.samples)
    batches = loader.batches(samples)
    epoch_from = partial(loader.epoch, clock.epoch, stage.device, samples=plan.samples, present=plan.present)
    losses = LossGuard(
        stage, clock.epoch, range(progress.batch, batches), learning_rate, partial(bar.write, file=sys.stderr),
        replay=lambda number: next(epoch_from(start_batch=number)),
    )  # fmt: skip
    for batch in epoch_from(start_batch=progress.batch):
        now = replace(clock, batch=progress.batch, batches=batches)
        losses.before_update()
        loss_output = stage.method.update(stage.model, batch, stage.optimizer_step, now)
        if losses.accept(batch, loss_output.total):
            _accumulate(progress.sums, loss_output.total, loss_output.parts, len(batch.labels))
            if progress.seen is not None:
                progress.seen.record(loss_output.output, batch)
        else:
            progress.left_out += len(batch.labels)
        progress.batch += 1
        bar.update()
        if stop_requested():
            losses.check()  # a state after a loss that is not finite must not be saved
            progress.seconds += time.perf_counter() - started
            progress.training_seconds += watch.lap()
            recorder.save(capture(stage, progress))
            raise Interrupted
    losses.check()
    if progress.left_out == samples:
        raise Diverged(
            f"no batch of epoch {clock.epoch + 1} has a finite loss: lower learning_rate (now {learning_rate:g}), or look at the "
            "samples that were left out; the last good state is in the checkpoint"
        )
    # The epoch's host syncs: one for the losses, one for the means.
    means = {name: float(value) / (samples - progress.left_out) for name, value in progress.sums.items()}
    seconds = progress.seconds + time.perf_counter() - started
    progress.steps += progress.batch
    progress.step_seconds += seconds
    if broken := [name for name, value in means.items() if not math.isfinite(value)]:
        raise Diverged(
            f"{broken[0]} is no longer finite in epoch {clock.epoch + 1}: lower learning_rate "
            f"(now {learning_rate:g}) or the loss weights; the last good state is in the checkpoint"
        )
    name = first_not_finite(stage.model)
    if name is not None:
        # The training loss depends neither on running statistics nor on weights that only ever see padding.
        raise Diverged(
            f"{name} of the network is no longer finite after epoch {clock.epoch + 1}, although the training loss is: lower "
            f"learning_rate (now {learning_rate:g}) or give precision=float32; the state before this epoch is in the checkpoint"
        )
    if stage.optimizer_step.skip_not_finite:
        means["train/samples_left_out"] = float(progress.left_out)
    return means | {
        "train/samples_per_second": samples / seconds,
        "learning_rate": learning_rate,
        "anneal": stage.method.anneal_coefficient(clock),
    }


def _accumulate(sums: dict[str, Tensor], total: Tensor, parts: dict[str, Tensor], samples: int) -> None:
    for name, value in _loss_metrics(total, parts):
        weighted = value.detach() * samples
        sums[name] = sums[name] + weighted if name in sums else weighted


def _loss_metrics(total: Tensor, parts: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "train/loss", total
    for name, value in parts.items():
        yield f"train/loss_{name}", value


def _fit_due(stage: Stage, stage_epoch: int) -> bool:
    every = stage.refit_every
    return stage_epoch == stage.epochs or (every is not None and stage_epoch % every == 0)


def _never() -> bool:
    return False


def measure_gaps(
    stage: Stage,
    epoch: int,
    previous: GapFit | None = None,
    *,
    seen: SeenProbabilities | None = None,
    stop_requested: Callable[[], bool] = _never,
) -> GapFit:
    """Measure the training samples' gaps after ``epoch`` epochs, by the stage's ``gap_source``, and fit the mixture.

    Passes are counted as cost if the method needs the gaps. Copies of ``cross_fitted`` train as many epochs as the network has.

    Args:
        stage: the stage.
        epoch: epochs finished, over both stages.
        previous: the last fit, whose mixture is one more start.
        seen: what training saw, for ``running``. A sample that it never saw counts with the network's prediction, as under
            ``refit``.
        stop_requested: polled after every batch of a copy.

    Raises:
        Interrupted: a stop was requested while a copy was trained.
    """
    train = stage.data.splits["train"]
    running = seen if stage.gap_source == "running" else None
    if running is not None and running.complete:
        return _running_fit(stage, epoch, running, None, previous)
    with nullcontext() if stage.method.needs_warmup else stage.model.passes.paused():
        if stage.gap_source == "cross_fitted":
            inspector = inspector_at(stage, None, Clock(epoch, 0, epoch), stop_requested)
            predictions = inspector.cross_predict(loss_of_copies, max(epoch, 1), folds=min(FOLDS, len(train)))
            return fit_gaps(predictions, epoch, stage.mixture, source=stage.gap_source, previous=previous)
        predictions = predict_split(stage.model, stage.method, train, stage.device)
        fit = fit_gaps(predictions, epoch, stage.mixture, previous=previous)
    return fit if running is None else _running_fit(stage, epoch, running, fit, previous)


def _running_fit(
    stage: Stage, epoch: int, seen: SeenProbabilities, otherwise: GapFit | None, previous: GapFit | None = None
) -> GapFit:
    """Fit the gaps of the running means; ``otherwise`` stands in for what was never seen."""
    train = stage.data.splits["train"]
    *unimodal, fused = seen.filled(otherwise)
    return fit_gaps_from_probabilities(
        dict(zip(seen.modalities, unimodal, strict=True)),
        fused,
        train.labels,
        epoch,
        stage.mixture,
        samples_digest=train.samples_digest,
        source="running",
        previous=previous,
    )


def _gap_fit_metrics(stage: Stage, fresh: GapFit, validation: GapFit | None) -> dict[str, float]:
    metrics = gap_fit_metrics(fresh)
    if stage.data.truth_known:
        metrics |= truth_metrics(fresh, stage.data.splits["train"].corrupted)
    if validation is not None:
        metrics["val/density_at_zero"] = validation.mixture.density_at_zero
    return _finite(metrics)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return the finite values: trackers take no others."""
    return {name: value for name, value in metrics.items() if value == value and abs(value) < float("inf")}


def _publish_first_fit(
    stage: Stage, progress: Progress, recorder: Recorder, stop_requested: Callable[[], bool]
) -> None:
    """Publish the gap fit that the stage starts from as its first point. Where ``gap_source`` is not ``refit``, the fit of the
    warm-up is replaced, and stands in for samples that training never saw.
    """
    assert progress.gap_fit is not None
    watch = Stopwatch()
    if stage.gap_source == "cross_fitted":
        progress.gap_fit = measure_gaps(stage, progress.epoch, stop_requested=stop_requested)
    elif stage.gap_source == "running" and progress.seen is not None:
        progress.gap_fit = _running_fit(stage, progress.epoch, progress.seen, progress.gap_fit)
    progress.training_seconds += watch.lap()
    metrics = _gap_fit_metrics(stage, progress.gap_fit, progress.validation_fit)
    point = MetricPoint(progress.epoch, int(time.time() * 1000), metrics)
    progress.points.append(point)
    recorder.save(capture(stage, progress))
    recorder.publish(point, progress.gap_fit, progress.validation_fit)
