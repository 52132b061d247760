"""Stages and evaluations as runs: train, publish figures and model, describe, close."""

from __future__ import annotations

from collections.abc import Callable

from mm_balance.data import MultimodalData
from mm_balance.engine.evaluate import probe_metrics, split_metrics
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.recorder import OnPoint, ignore_point
from mm_balance.errors import UserError
from mm_balance.methods import build_method
from mm_balance.seeding import set_numerics
from mm_balance.tracking.model import load_network
from mm_balance.tracking.runs import ModelOnData, TrackedRun
from mm_balance.tracking.system_metrics import system_metrics
from mm_balance.workflow.card import log_data
from mm_balance.workflow.evaluation_page import publish_evaluation
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.report import accuracies, describe_evaluation, describe_stage, publish
from mm_balance.workflow.setup import resolve_device
from mm_balance.workflow.stage import StageResult, close, train_stage
from mm_balance.workflow.trained import load_trained

Stop = Callable[[], bool]
INHERITED_TAGS = ("mm.method", "mm.seed", "mm.loss_form")
"""Tags of a trained run that also describe an evaluation of its model."""


def run_stage(
    plan: StagePlan,
    data: MultimodalData,
    run: TrackedRun,
    stop: Stop,
    warmup: TrackedRun | None = None,
    *,
    nested: bool = False,
    on_point: OnPoint = ignore_point,
) -> StageResult:
    """Train a stage, publish and describe the result, and end its run.

    Args:
        plan: what to train.
        data: the data set.
        run: the run to log to.
        stop: polled after every batch.
        warmup: the run to start from; None = from scratch, or from the run's own checkpoint.
        nested: whether it is one of several stages of a parent run, which then gets the figures and the model.
        on_point: called with every metric point.

    Raises:
        UserError: see ``train_stage``.
        Interrupted: a stop was requested.
    """
    with system_metrics(run, wanted=plan.config.run.system_metrics):
        result = train_stage(plan, data, run, stop, warmup=warmup, on_point=on_point)
    if not nested:
        warmup_epochs = result.progress.epoch if plan.stage == "warmup" else result.progress.first_epoch
        publishing_metrics = publish(result, run, result.progress.points, warmup_epochs)
        run.log_metrics(publishing_metrics, result.epoch)
    run.describe(describe_stage(result, command=None if nested else plan.stage))
    close(result)
    return result


def run_evaluation(
    source: TrackedRun, split: str, data: MultimodalData, run: TrackedRun, device: str, *, probe: bool = False
) -> dict[str, float]:
    """Evaluate the model of ``source`` on one split and log ``<split>/...`` metrics at the model's epoch.

    With ``probe``, also log the accuracy of a linear classifier on each frozen encoder, trained on the training split.

    Raises:
        UserError: ``source`` has neither a model nor a checkpoint, or one with other modalities.
    """
    logged = source.latest_model()
    model, epoch = load_trained(source, data) if logged is None else load_network(source)
    if set(model.modalities) != set(data.specs):
        raise UserError(f"the model of run {source.run_id} takes {model.modalities}, the data have {tuple(data.specs)}")
    chosen = resolve_device(device)
    trained_config = source.saved_config()
    set_numerics(chosen, deterministic=trained_config["deterministic"])
    method = build_method("concat", {}, model.modalities, 0)
    predictions = predict_split(model.to(chosen), method, data.splits[split], chosen, features=probe, coalitions=True)
    metrics = dict(split_metrics(predictions, split))
    if probe:
        train_predictions = predict_split(model, method, data.splits["train"], chosen, features=True)
        metrics |= dict(probe_metrics(train_predictions, predictions, split))
    branches = model.interaction is not None
    trained = source.read().data.tags
    run.set_tags(
        {
            **{name: trained[name] for name in INHERITED_TAGS if name in trained},
            "mm.stage": "evaluate",
            "mm.split": split,
            "mm.evaluated_run": source.run_id,
            "mm.dataset": data.name,
            "mm.data_digest": data.digest,
            **({"mm.unimodal": "branches"} if branches else {}),
        }
    )
    log_data(run, data, "evaluation")
    run.log_metrics(metrics, epoch, None if logged is None else ModelOnData(logged[0], data))
    caption = f"{split} split of {data.name}, {len(predictions.labels):,} samples"
    if "mm.seed" in trained:
        caption += f", {trained.get('mm.method', 'model')} seed {trained['mm.seed']}"
    errors = publish_evaluation(run, predictions, data.classes, caption=caption, branches=branches)
    run.describe(
        describe_evaluation(
            source,
            run,
            split,
            epoch,
            len(predictions.labels),
            errors,
            accuracies(metrics, split, model.modalities, branches=branches),
        )
    )
    run.terminate("FINISHED")
    return metrics
