"""The training loop of a stage. It names no method and writes nothing but through the recorder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mm_balance.data import BatchLoader, MultimodalData
from mm_balance.engine.checkpoint import gap_fit_from_state, gap_fit_to_state
from mm_balance.engine.cost import Stopwatch, peak_memory_bytes, reset_peak_memory
from mm_balance.engine.evaluate import split_metrics
from mm_balance.engine.inspector import EngineInspector
from mm_balance.engine.predictions import fit_gaps, gap_fit_metrics, predict_split, truth_metrics
from mm_balance.engine.recorder import MetricPoint, Recorder
from mm_balance.engine.step import EngineOptimizerStep
from mm_balance.errors import Diverged, Interrupted, UserError
from mm_balance.methods import Method
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import random_state, restore_random_state
from mm_balance.types import Clock, EpochPlan, GapFit


@dataclass
class Stage:
    """What a stage trains and how. Built once, not changed by the loop beyond model, method and optimizer state.

    Attributes:
        epochs: length of the stage.
        refit_every: epochs between two surveys; None = one survey, after the last epoch.
        mixture: kind of mixture to fit at each survey.
        learning_rate: the rate at a time.
        title: what the progress bar says.
        new_optimizer_step: network -> a fresh optimizer for it, at the stage's initial rate.
        record: what the caller wants kept in every checkpoint: configuration and circumstances, as primitives.
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
    new_optimizer_step: Callable[[nn.Module], EngineOptimizerStep]
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a stage stands: everything that changes while it trains, beside model, method and optimizer.

    Attributes:
        first_epoch: epochs finished before this stage.
        stage_epoch: epochs finished in this stage.
        batch: batches finished in the epoch under way; not 0 only after an interruption.
        sums: sums over the samples of the epoch under way, part of the loss -> scalar tensor.
        seconds: training time of the epoch under way.
        points: everything published so far.
        gap_fit: the latest one.
        plan: what the method asked for the epoch under way.
        steps: updates made in this stage, and ``step_seconds`` the training time they took.
        passes: through encoders in this stage, see ``PassCounter``.
        training_seconds: spent on this stage by all processes that worked on it: training, validation, surveys, no tracking.
        peak_memory: most bytes in use during this stage in any of these processes, see ``peak_memory_bytes``.
        best_accuracy: best validation accuracy so far (-1 before the first), and its epoch.
    """

    first_epoch: int = 0
    stage_epoch: int = 0
    batch: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    points: list[MetricPoint] = field(default_factory=list)
    gap_fit: GapFit | None = None
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
        """Epochs finished, over both stages."""
        return self.first_epoch + self.stage_epoch


def capture(stage: Stage, progress: Progress) -> dict[str, Any]:
    """The whole state as tensors and primitives."""
    progress.passes = stage.model.passes.state_dict()
    progress.peak_memory = max(progress.peak_memory, peak_memory_bytes(stage.device))
    plain = {name: value for name, value in vars(progress).items() if name not in ("points", "gap_fit", "plan")}
    return {
        "model": stage.model.state_dict(),
        "method": stage.method.state_dict(),
        "stepper": stage.optimizer_step.state_dict(),
        "random": random_state(),
        "progress": plain,
        "plan": asdict(progress.plan),
        "points": [asdict(point) for point in progress.points],
        "refit": None if progress.gap_fit is None else gap_fit_to_state(progress.gap_fit),
        "samples_digest": stage.data.splits["train"].samples_digest,
        "record": dict(stage.record),
    }


def restore(stage: Stage, state: dict[str, Any]) -> Progress:
    """Put ``state`` back into the stage's model, method, optimizer and the global generators.

    Raises:
        UserError: the state is of other training samples, or of the same in another order; nothing has been changed.
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
    )
    stage.model.passes.load_state_dict(progress.passes)
    progress.sums = {name: value.to(stage.device) for name, value in progress.sums.items()}
    return progress


def check_samples(data: MultimodalData, samples_digest: str, what: str) -> None:
    """Tables by sample index belong to certain training samples in a certain order.

    Args:
        data: what is trained on now.
        samples_digest: of the samples that ``what`` belongs to.
        what: how the message calls it.

    Raises:
        UserError: it belongs to others.
    """
    found = data.splits["train"].samples_digest
    if found != samples_digest:
        raise UserError(
            f"{what} belongs to other training samples, or to the same in another order (sample ids {samples_digest[:12]}, those "
            f"of {data.name} here {found[:12]}); give the data it was made with, or train it again"
        )


def fit(stage: Stage, progress: Progress, recorder: Recorder, stop_requested: Callable[[], bool]) -> None:
    """Train until the stage's last epoch.

    Per epoch: let the method plan, train, validate, survey and refit where due, save, publish. ``stop_requested`` is asked after every
    batch.

    Raises:
        Interrupted: a stop was requested; the state is saved, in the middle of an epoch too.
        Diverged: the loss, or a weight of the network, is no longer finite.
    """
    loader = BatchLoader(stage.data.splits["train"], stage.batch_size, seed=stage.seed)
    reset_peak_memory(stage.device)
    if progress.gap_fit is not None and not progress.points:
        _publish_first_fit(stage, progress, recorder)
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
            progress.stage_epoch += 1
            progress.batch, progress.sums, progress.seconds = 0, {}, 0.0
            with stage.model.passes.paused():
                seen = predict_split(stage.model, stage.method, stage.data.splits["val"], stage.device, coalitions=True)
            metrics |= dict(split_metrics(seen, "val"))
            fresh = None
            if _fit_due(stage, progress.stage_epoch):
                fresh = progress.gap_fit = measure_gaps(stage, progress.epoch)
                metrics |= _gap_fit_metrics(stage, fresh)
            bar.set_postfix(val=f"{metrics['val/accuracy']:.3f}", refresh=False)
            if metrics["val/accuracy"] > progress.best_accuracy:
                progress.best_accuracy, progress.best_epoch = metrics["val/accuracy"], progress.epoch
            point = MetricPoint(progress.epoch, int(time.time() * 1000), metrics)
            progress.points.append(point)
            progress.training_seconds += watch.lap()
            recorder.save(capture(stage, progress))
            if progress.best_epoch == progress.epoch:
                recorder.save_best(best_state(stage, progress))
            recorder.publish(point, fresh)


def best_state(stage: Stage, progress: Progress) -> dict[str, Any]:
    """The weights of the epoch that has just ended, as the best so far.

    They are saved after the state that calls this epoch the best: a process that dies between the two can make them again from
    that state, and no weights of an epoch that was lost can stay.
    """
    return {"model": stage.model.state_dict(), "epoch": progress.epoch}


def plan_epoch(stage: Stage, progress: Progress, clock: Clock, stop_requested: Callable[[], bool]) -> None:
    """Let the method inspect the stage and plan the epoch."""
    seed = stage.seed + 7919 * (clock.epoch + 1)
    inspector = EngineInspector(
        model=stage.model, gap_fit=progress.gap_fit, method=stage.method, data=stage.data, device=stage.device,
        batch_size=stage.batch_size, seed=seed, new_optimizer_step=stage.new_optimizer_step, learning_rate=stage.learning_rate,
        clock=clock, stop_requested=stop_requested,
    )  # fmt: skip
    progress.plan = stage.method.refresh(stage.model, inspector, clock)
    if progress.plan.reset_optimizer:
        stage.optimizer_step.reset()


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
    for batch in loader.epoch(
        clock.epoch, stage.device, start_batch=progress.batch, samples=plan.samples, present=plan.present
    ):
        now = replace(clock, batch=progress.batch, batches=batches)
        loss_output = stage.method.update(stage.model, batch, stage.optimizer_step, now)
        _accumulate(progress.sums, loss_output.total, loss_output.parts, len(batch.labels))
        progress.batch += 1
        bar.update()
        if stop_requested():
            progress.seconds += time.perf_counter() - started
            progress.training_seconds += watch.lap()
            recorder.save(capture(stage, progress))
            raise Interrupted
    means = {name: float(value) / samples for name, value in progress.sums.items()}  # the epoch's one host sync
    seconds = progress.seconds + time.perf_counter() - started
    progress.steps += progress.batch
    progress.step_seconds += seconds
    if not all(abs(value) < float("inf") for value in means.values()):
        raise Diverged(
            f"the training loss is no longer finite in epoch {clock.epoch + 1}: lower learning_rate "
            f"(now {learning_rate:g}) or the loss weights; the state before this epoch is in the checkpoint"
        )
    bad = first_not_finite(stage.model)
    if bad is not None:
        # Running statistics do not enter the loss of training, nor do weights that only ever meet padding.
        raise Diverged(
            f"{bad} of the network is no longer finite after epoch {clock.epoch + 1}, though the training loss is: lower "
            f"learning_rate (now {learning_rate:g}) or give precision=float32; the state before this epoch is in the checkpoint"
        )
    return means | {
        "train/samples_per_second": samples / seconds,
        "learning_rate": learning_rate,
        "anneal": stage.method.anneal_coefficient(clock),
    }


def first_not_finite(network: nn.Module) -> str | None:
    """Name of the first parameter or buffer that is not finite; None = all are. One host sync."""
    weights = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
    return next((name for name, good in zip(weights, finite, strict=True) if not good), None)


def _accumulate(sums: dict[str, Tensor], total: Tensor, parts: dict[str, Tensor], samples: int) -> None:
    for name, value in _named(total, parts):
        weighted = value.detach() * samples
        sums[name] = sums[name] + weighted if name in sums else weighted


def _named(total: Tensor, parts: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "train/loss", total
    for name, value in parts.items():
        yield f"train/loss_{name}", value


def _fit_due(stage: Stage, stage_epoch: int) -> bool:
    every = stage.refit_every
    return stage_epoch == stage.epochs or (every is not None and stage_epoch % every == 0)


def measure_gaps(stage: Stage, epoch: int) -> GapFit:
    """Measure every training sample's gap after ``epoch`` epochs and fit the mixture; counted as cost where the method needs it."""
    with nullcontext() if stage.method.needs_warmup else stage.model.passes.paused():
        seen = predict_split(stage.model, stage.method, stage.data.splits["train"], stage.device)
    return fit_gaps(seen, epoch, stage.mixture)


def _gap_fit_metrics(stage: Stage, fresh: GapFit) -> dict[str, float]:
    metrics = gap_fit_metrics(fresh)
    if stage.data.truth_known:
        metrics |= truth_metrics(fresh, stage.data.splits["train"].corrupted)
    return {name: value for name, value in metrics.items() if value == value and abs(value) < float("inf")}


def _publish_first_fit(stage: Stage, progress: Progress, recorder: Recorder) -> None:
    """The fit that the stage starts from is its first point."""
    assert progress.gap_fit is not None
    point = MetricPoint(progress.epoch, int(time.time() * 1000), _gap_fit_metrics(stage, progress.gap_fit))
    progress.points.append(point)
    recorder.save(capture(stage, progress))
    recorder.publish(point, progress.gap_fit)
