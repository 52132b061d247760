"""What each entry point does, given a complete configuration and its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mm_balance import names
from mm_balance.config import SEEN_BY_THE_NETWORK, Config, entry_point_options, format_value, options, resolve
from mm_balance.data import MultimodalData
from mm_balance.engine.evaluate import probe_metrics, split_metrics
from mm_balance.engine.predictions import predict_split
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import build_method, find_method
from mm_balance.seeding import set_numerics
from mm_balance.tracking.environment import environment
from mm_balance.tracking.lookup import children, existing_run, find_warmup, open_run
from mm_balance.tracking.model import load_network
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.card import log_data
from mm_balance.workflow.provenance import Provenance, circumstances, fingerprint
from mm_balance.workflow.report import accuracies, describe_stage, final_validation, publish
from mm_balance.workflow.setup import resolve_device
from mm_balance.workflow.stage import (
    STAGE2_METHOD,
    StageResult,
    close,
    saved_points,
    saved_state,
    train_method,
    train_stage2,
    train_warmup,
)

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
    warmup: TrackedRun | None,
    *,
    nested: bool = False,
) -> StageResult:
    """Stage 2 as a run, after ``warmup`` (None: it goes on from its checkpoint).

    A nested run has the series; figures and model are its parent's.
    """
    result = train_stage2(config, data, run, stop, warmup=warmup)
    if not nested:
        spent = publish(result, run, result.progress.points, result.progress.first_epoch)
        run.log_metrics(spent, result.epoch)
    run.describe(describe_stage(config, result))
    close(result)
    return result


def run_train(
    config: Config, data: MultimodalData, run: TrackedRun, stop: Stop, warmup: TrackedRun | None
) -> StageResult:
    """One stage of any method as a run, from scratch or after ``warmup``."""
    result = train_method(config, data, run, stop, warmup=warmup)
    method = result.stage.method
    spent = publish(result, run, result.progress.points, result.progress.first_epoch)
    run.log_metrics(spent, result.epoch)
    values = {name: format_value(value) for name, value in asdict(method.options).items()}
    told = ", ".join(f"`{name}={value}`" for name, value in values.items()) or "none"
    run.describe(f"{describe_stage(config, result)}\n\nMethod `{method.name}`: {method.citation}. Options: {told}.")
    close(result)
    return result


def run_main(config: Config, data: MultimodalData, parent: TrackedRun, stop: Stop) -> dict[str, float]:
    """Warm-up, stage 2, evaluation: nested runs; the parent gets final metrics, figures and model.

    Continues where an earlier process was stopped: finished children are kept, a started one goes on from its
    checkpoint. With more epochs than before, children grow; a stage 2 that began from a shorter warm-up is kept, but replaced.

    Returns:
        The final validation and test metrics.
    """
    introduce_main(config, data, parent)
    known = children(parent)

    def child(stage: str) -> TrackedRun:
        run = known.get(stage) or open_run(f"{stage} seed {config.seed}", parent=parent, tags={"mm.stage": stage})
        run.reopen()
        return run

    warmup = known.get("warmup")
    if warmup is None or not ended(warmup, config.warmup_epochs):
        warmup = child("warmup")
        run_warmup(config, data, warmup, stop, nested=True)
    check(stop)
    if (begun := known.get("adaptive")) is not None and _begun_elsewhere(begun, config.warmup_epochs):
        for stage in ("adaptive", "evaluate"):
            if stage in known:
                replace(known.pop(stage), f"the warm-up has grown to {config.warmup_epochs} epochs since")
    # A finished stage 2 is restored from its checkpoint, which costs no training.
    adaptive = child("adaptive")
    result = run_stage2(config, data, adaptive, stop, warmup, nested=True)
    points = saved_points(warmup) + result.progress.points
    spent = publish(result, parent, points, result.progress.first_epoch)
    check(stop)
    tested = run_evaluate(parent, "test", data, child("evaluate"), config.device)
    final = tested | final_validation(result)
    # At the length of the run, which only grows: its last point is what a run shows, though its best epoch may have moved back.
    parent.log_metrics(final | spent, result.progress.epoch)
    parent.set_tags(_of_children(warmup, adaptive))
    modalities = result.stage.model.modalities
    parent.describe(
        f"Test accuracy: {accuracies(final, 'test', modalities)}.\n\n"
        + describe_stage(config, result)
        + f"\n\nSeries and refits: see the nested runs. After warm-up alone: see `{warmup.read().info.run_name}`."
    )
    parent.terminate("FINISHED")
    return final


def introduce_main(config: Config, data: MultimodalData, parent: TrackedRun) -> None:
    """Say on the parent run what it is, anew each time that it is continued."""
    method = build_method(STAGE2_METHOD, asdict(config), tuple(data.specs), 0)
    provenance = Provenance.new(config, "main", method, None)
    parent.set_tags(provenance.tags(data, "main", method) | {"mm.fingerprint": fingerprint(config, data)})
    parent.log_config(provenance.config)
    log_data(parent, data, "training")
    if names.ENVIRONMENT_FILE not in parent.artifact_names(""):  # of later processes, the nested runs have their own
        parent.log_json(environment(), names.ENVIRONMENT_FILE)


def ended(run: TrackedRun, epochs: int) -> bool:
    """Whether a nested stage has ended well after so many epochs."""
    if run.read().info.status != "FINISHED":
        return False
    state = saved_state(run)
    return state is not None and state["progress"]["stage_epoch"] >= epochs


def _begun_elsewhere(run: TrackedRun, warmup_epochs: int) -> bool:
    """Whether a stage 2 has begun from a warm-up of another length."""
    state = saved_state(run)
    return state is not None and state["progress"]["first_epoch"] != warmup_epochs


def replace(run: TrackedRun, why: str) -> None:
    """Leave a nested run as it is, but let another one take its place."""
    stage = run.read().data.tags["mm.stage"]
    run.set_tags({"mm.stage": f"replaced {stage}", "mm.replaced": why})
    run.describe(f"Replaced: {why}.\n\n{run.description()}")


def _of_children(warmup: TrackedRun, adaptive: TrackedRun) -> dict[str, str]:
    """What the nested runs say of how they were trained, for their parent."""
    found = {"mm.fingerprint": warmup.read().data.tags["mm.fingerprint"]}
    for name in ("mm.grown", "mm.mixed"):
        told = [tags[name] for run in (warmup, adaptive) if name in (tags := run.read().data.tags)]
        if told:
            found[name] = "; ".join(told)
    return found


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
    trained = source.read_json(names.CONFIG_FILE)
    set_numerics(chosen, deterministic=trained["deterministic"])
    method = build_method("concat", {}, model.modalities, 0)
    seen = predict_split(model.to(chosen), method, data.splits[split], chosen, features=probe, coalitions=True)
    metrics = dict(split_metrics(seen, split))
    if probe:
        trained_on = predict_split(model, method, data.splits["train"], chosen, features=True)
        metrics |= dict(probe_metrics(trained_on, seen, split))
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
        f"Model of run `{source.run_id}` after epoch {epoch} on the {split} split ({len(seen.labels)} samples): "
        f"{accuracies(metrics, split, model.modalities, branches=branches)}."
    )
    run.terminate("FINISHED")
    return metrics


def find_matching_warmup(config: Config, data: MultimodalData) -> TrackedRun | None:
    """The newest finished warm-up run with this configuration's fingerprint: of the experiment at hand, else of any."""
    return find_warmup(fingerprint(config, data))


def choose_warmup(config: Config, data: MultimodalData) -> TrackedRun:
    """The warm-up run that stage 2 starts from: the named one, or the newest finished one of the same fingerprint.

    Raises:
        UserError: missing, not a warm-up, not finished, of other data, or of another model; or none was found, with the
            line that makes one; or the method keeps samples back that any warm-up has trained on.
    """
    method = find_method(config.method)
    if method.held_out:
        which = f"the warm-up run {config.warmup_run}" if config.warmup_run else "a warm-up run"
        raise UserError(
            f"method={method.name} diagnoses on {method.held_out:.0%} of the training samples, which it keeps back; {which} has "
            "trained on them: train it from scratch, without warmup_run"
        )
    if config.warmup_run is None:
        found = find_matching_warmup(config, data)
        if found is None:
            threads = circumstances(config.device)["threads"]
            how = f", this code and {threads} CPU thread(s)" if threads else " and this code"
            raise UserError(f"no finished warm-up run with these settings{how}; make one with: {warmup_line(config)}")
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


def merge_resumed(given: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resumed run: the saved ones; a given value that differs from both is an error.

    Args:
        given: what was given now, by name; a declared default cannot be told from "not given".
        saved: what the run was trained with so far.

    Raises:
        UserError: a parameter that may not change was changed; only what belongs to the machine may, and epochs may grow.
    """
    declared = options()
    merged = dict(saved)
    for name, value in given.items():
        option = declared[name]
        default = None if option.may_be_none else option.default
        if name in ("resume_run", "preset") or value in (default, saved.get(name)):
            continue
        if not option.of_the_machine and not (option.may_grow and value > saved[name]):
            raise UserError(
                f"resume_run: the run was started with {name}={format_value(saved.get(name))}, it cannot go on with "
                f"{name}={format_value(value)} (only device and data_dir may change, and epochs may grow)"
            )
        merged[name] = value
    return merged
