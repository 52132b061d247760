"""What each entry point does, given a complete configuration and its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mm_balance import names
from mm_balance.config import SEEN_BY_THE_NETWORK, Config, entry_point_options, format_value, resolve
from mm_balance.data import MultimodalData
from mm_balance.engine.evaluate import probe_metrics, split_metrics
from mm_balance.engine.survey import survey
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import build_method
from mm_balance.tracking.environment import environment
from mm_balance.tracking.model import load_network
from mm_balance.tracking.runs import TrackedRun, children, existing_run, find_warmup, open_run
from mm_balance.workflow.report import accuracies, describe_stage, final_validation, publish
from mm_balance.workflow.setup import fingerprint, resolve_device, run_tags
from mm_balance.workflow.stage import StageResult, close, saved_points, train_method, train_stage2, train_warmup

Stop = Callable[[], bool]


def run_warmup(
    config: Config, data: MultimodalData, run: TrackedRun, stop: Stop, *, nested: bool = False
) -> StageResult:
    """Stage 1 as a run. A nested run has the series; figures and model are its parent's."""
    result = train_warmup(config, data, run, stop)
    if not nested:
        spent = publish(result, run, result.progress.points, result.progress.epoch)
        run.log_metrics(spent, result.epoch)
    kind = "joint training" if config.warmup_unimodal_weight == 0 else "joint training + unimodal losses"
    run.describe(describe_stage(config, result, f"Warm-up ({kind})"))
    close(result)
    return result


def run_stage2(
    config: Config,
    data: MultimodalData,
    run: TrackedRun,
    stop: Stop,
    warmup: TrackedRun,
    method: str = "gap_mixture",
    *,
    nested: bool = False,
) -> StageResult:
    """Stage 2 as a run, after ``warmup``. A nested run has the series; figures and model are its parent's."""
    result = train_stage2(config, data, run, stop, warmup=warmup, method=method)
    if not nested:
        spent = publish(result, run, result.progress.points, result.progress.first_epoch)
        run.log_metrics(spent, result.epoch)
    run.describe(describe_stage(config, result, stage2_headline(config, result)))
    close(result)
    return result


def run_train(
    config: Config, data: MultimodalData, run: TrackedRun, stop: Stop, warmup: TrackedRun | None
) -> StageResult:
    """One stage of any method as a run, from scratch or after ``warmup``."""
    result = train_method(config, data, run, stop, warmup=warmup)
    method = result.stage.method
    options = {name: format_value(value) for name, value in asdict(method.options).items()}
    run.log_params({f"method/{name}": value for name, value in options.items()})
    spent = publish(result, run, result.progress.points, result.progress.first_epoch)
    run.log_metrics(spent, result.epoch)
    told = ", ".join(f"`{name}={value}`" for name, value in options.items()) or "none"
    text = describe_stage(config, result, stage2_headline(config, result))
    run.describe(f"{text}\n\nMethod `{method.name}`: {method.citation}. Options: {told}.")
    close(result)
    return result


def stage2_headline(config: Config, result: StageResult) -> str:
    """How tables and descriptions call this stage 2."""
    title = result.stage.method.title[:1].upper() + result.stage.method.title[1:]
    return f"{title}, form `{config.loss_form}`" if result.stage.method.name == "gap_mixture" else title


def run_main(config: Config, data: MultimodalData, parent: TrackedRun, stop: Stop) -> dict[str, float]:
    """Warm-up, stage 2, evaluation: nested runs; the parent gets final metrics, figures and model.

    Continues where an earlier process was stopped: finished children are kept, a started one goes on from its
    checkpoint.

    Returns:
        The final validation and test metrics.
    """
    parent.set_tags(run_tags(config, data, "main", "gap_mixture"))
    parent.log_config(config)
    parent.log_data(data, "training")
    parent.log_json(environment(), names.ENVIRONMENT_FILE)
    known = children(parent)

    def child(stage: str) -> tuple[TrackedRun, bool]:
        run = known.get(stage) or open_run(f"{stage} seed {config.seed}", parent=parent)
        run.set_tags({"mm.stage": stage})
        finished = run.read().info.status == "FINISHED"
        if not finished:
            run.reopen()
        return run, finished

    warmup, finished = child("warmup")
    if not finished:
        run_warmup(config, data, warmup, stop, nested=True)
    check(stop)
    # A finished stage 2 is restored from its checkpoint, which costs no training.
    adaptive, _ = child("adaptive")
    result = run_stage2(config, data, adaptive, stop, warmup, nested=True)
    points = saved_points(warmup, data) + result.progress.points
    spent = publish(result, parent, points, result.progress.first_epoch)
    check(stop)
    evaluation, _ = child("evaluate")
    tested = run_evaluate(parent, "test", data, evaluation, config.device)
    final = tested | final_validation(result)
    parent.log_metrics(final | spent, result.epoch)
    modalities = result.stage.model.modalities
    parent.describe(
        f"Test accuracy: {accuracies(final, 'test', modalities)}.\n\n"
        + describe_stage(config, result, stage2_headline(config, result))
        + f"\n\nSeries and refits: see the nested runs. After warm-up alone: see `{warmup.read().info.run_name}`."
    )
    parent.terminate("FINISHED")
    return final


def check(stop: Stop) -> None:
    """Between stages: raises Interrupted where a stop was requested."""
    if stop():
        raise Interrupted


def run_evaluate(
    source: TrackedRun, split: str, data: MultimodalData, run: TrackedRun, device: str, *, probe: bool = False
) -> dict[str, float]:
    """The model that ``source`` logged, on one split; metrics ``<split>/...`` at the model's epoch.

    With ``probe``, also the accuracy of a linear classifier on each frozen encoder, trained on the training split.
    """
    model, epoch = load_network(source)
    if set(model.modalities) != set(data.specs):
        raise UserError(f"the model of run {source.run_id} takes {model.modalities}, the data have {tuple(data.specs)}")
    chosen = resolve_device(device)
    method = build_method("concat", {}, model.modalities, 0)
    seen = survey(model.to(chosen), method, data.splits[split], chosen, features=probe, coalitions=True)
    metrics = dict(split_metrics(seen, split))
    if probe:
        trained_on = survey(model, method, data.splits["train"], chosen, features=True)
        metrics |= dict(probe_metrics(trained_on, seen, split))
    run.set_tags({"mm.stage": "evaluate", "mm.evaluated_run": source.run_id, "mm.data_digest": data.digest})
    run.log_data(data, "evaluation")
    run.log_metrics(metrics, epoch)
    run.describe(
        f"Model of run `{source.run_id}` after epoch {epoch} on the {split} split ({len(seen.labels)} samples): "
        f"{accuracies(metrics, split, model.modalities)}."
    )
    run.terminate("FINISHED")
    return metrics


def find_matching_warmup(config: Config, data: MultimodalData) -> TrackedRun | None:
    """The newest finished warm-up run with this configuration's fingerprint."""
    return find_warmup(fingerprint(config, data))


def choose_warmup(config: Config, data: MultimodalData) -> TrackedRun:
    """The warm-up run that stage 2 starts from: the named one, or the newest finished one of the same fingerprint.

    Raises:
        UserError: missing, not a warm-up, not finished, of other data, or of another model; or none was found, with the
            line that makes one.
    """
    if config.warmup_run is None:
        found = find_matching_warmup(config, data)
        if found is None:
            raise UserError(f"no finished warm-up run with these settings; make one with: {warmup_line(config)}")
        return found
    run = existing_run(config.warmup_run, "warmup_run")
    info = run.read()
    if info.data.tags.get("mm.stage") != "warmup":
        raise UserError(f"warmup_run={run.run_id} is not a warm-up run (its stage is {info.data.tags.get('mm.stage')})")
    if info.info.status != "FINISHED":
        raise UserError(
            f"warmup_run={run.run_id} has not finished (status {info.info.status}); continue it with: "
            f"mlflow run . --env-manager local -e warmup -P resume_run={run.run_id}"
        )
    if info.data.tags.get("mm.data_digest") != data.digest:
        raise UserError(
            f"warmup_run={run.run_id} was trained on other data (digest differs from that of {config.dataset})"
        )
    saved = run.read_json(names.CONFIG_FILE)
    compared = ("encoder", "fusion", "modalities", *SEEN_BY_THE_NETWORK)
    differing = [name for name in compared if saved.get(name, getattr(config, name)) != getattr(config, name)]
    if differing:
        told = ", ".join(f"{name}={format_value(saved[name])}" for name in differing)
        raise UserError(f"warmup_run={run.run_id} was trained with {told}; give the same here")
    return run


def warmup_line(config: Config) -> str:
    """The command that makes the warm-up run this configuration looks for."""
    defaults = resolve({"dataset": config.dataset, "preset": config.preset})
    changed = [
        f"-P {name}={format_value(getattr(config, name))}"
        for name in entry_point_options("warmup")
        if getattr(config, name) != getattr(defaults, name)
        or (name in ("dataset", "preset") and getattr(config, name) != "auto")
    ]
    return " ".join(["mlflow run . --env-manager local -e warmup", *changed])


def merge_resumed(config: Mapping[str, Any], saved: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resumed run: the saved ones; a given value that differs from both is an error.

    Args:
        config: what was given now, by name.
        saved: the run's ``config.json``.
        declared: the declared defaults, which cannot be told from "not given".

    Raises:
        UserError: a parameter that may not change was changed; only ``device`` may, and epochs may grow.
    """
    merged = dict(saved)
    for name, value in config.items():
        if name in ("resume_run", "preset", "data_dir") or value == declared[name] or value == saved.get(name):
            continue
        grows = name in ("warmup_epochs", "adaptive_epochs", "epochs") and value > saved[name]
        if name != "device" and not grows:
            raise UserError(
                f"resume_run: the run was started with {name}={format_value(saved[name])}, it cannot go on with "
                f"{name}={format_value(value)} (only device may change, and epochs may grow)"
            )
        merged[name] = value
    return merged
