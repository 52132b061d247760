"""Stages as runs: train, publish figures and model, describe, close; and what a run with nested stages is made of."""

from __future__ import annotations

from collections.abc import Callable

from mm_balance import names
from mm_balance.data import MultimodalData
from mm_balance.engine.evaluate import probe_metrics, split_metrics
from mm_balance.engine.predictions import predict_split
from mm_balance.errors import UserError
from mm_balance.methods import build_method
from mm_balance.seeding import set_numerics
from mm_balance.tracking.model import load_network
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.card import log_data
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.report import accuracies, describe_stage, publish
from mm_balance.workflow.setup import resolve_device
from mm_balance.workflow.stage import StageResult, close, train_stage

Stop = Callable[[], bool]


def run_stage(
    plan: StagePlan,
    data: MultimodalData,
    run: TrackedRun,
    stop: Stop,
    warmup: TrackedRun | None = None,
    *,
    nested: bool = False,
) -> StageResult:
    """A stage as a run: trained, published, described and ended.

    Args:
        plan: what to train.
        data: what to train on.
        run: its run.
        stop: asked after every batch.
        warmup: the run it starts from; None = from scratch, or from the run's own checkpoint.
        nested: whether it belongs to a run with several stages: it then has the series alone, figures and model are its parent's.

    Raises:
        UserError: see ``train_stage``.
        Interrupted: a stop was requested.
    """
    result = train_stage(plan, data, run, stop, warmup=warmup)
    if not nested:
        ended_at = result.progress.epoch if plan.stage == "warmup" else result.progress.first_epoch
        spent = publish(result, run, result.progress.points, ended_at)
        run.log_metrics(spent, result.epoch)
    run.describe(describe_stage(result))
    close(result)
    return result


def run_evaluation(
    source: TrackedRun, split: str, data: MultimodalData, run: TrackedRun, device: str, *, probe: bool = False
) -> dict[str, float]:
    """The model that ``source`` logged, on one split; metrics ``<split>/...`` at the model's epoch.

    With ``probe``, also the accuracy of a linear classifier on each frozen encoder, trained on the training split.

    Raises:
        UserError: ``source`` has no model, or one of other modalities.
    """
    model, epoch = load_network(source)
    if set(model.modalities) != set(data.specs):
        raise UserError(f"the model of run {source.run_id} takes {model.modalities}, the data have {tuple(data.specs)}")
    chosen = resolve_device(device)
    trained = source.read_json(names.CONFIG_FILE)
    set_numerics(chosen, deterministic=trained["deterministic"])
    method = build_method("concat", {}, model.modalities, 0)
    predictions = predict_split(model.to(chosen), method, data.splits[split], chosen, features=probe, coalitions=True)
    metrics = dict(split_metrics(predictions, split))
    if probe:
        trained_on = predict_split(model, method, data.splits["train"], chosen, features=True)
        metrics |= dict(probe_metrics(trained_on, predictions, split))
    branches = model.interaction is not None
    run.set_tags(
        {
            "mm.stage": "evaluate",
            "mm.evaluated_run": source.run_id,
            "mm.data_digest": data.digest,
            **({"mm.unimodal": "branches"} if branches else {}),
        }
    )
    log_data(run, data, "evaluation")
    run.log_metrics(metrics, epoch)
    run.describe(
        f"Model of run `{source.run_id}` after epoch {epoch} on the {split} split ({len(predictions.labels)} samples): "
        f"{accuracies(metrics, split, model.modalities, branches=branches)}."
    )
    run.terminate("FINISHED")
    return metrics
