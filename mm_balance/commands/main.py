"""`main`: warm-up, stage 2, evaluation, as one run with nested runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import Config, stage_options
from mm_balance.errors import Interrupted

if TYPE_CHECKING:
    from mm_balance.commands.training import Read
    from mm_balance.data import MultimodalData
    from mm_balance.tracking.runs import TrackedRun
    from mm_balance.workflow.both_stages import BothStages
    from mm_balance.workflow.plans import StagePlan


def run(request: Request, stop: Stop) -> None:
    """Train both stages and test the result, or resume ``resume_run``."""
    train(request, stop)


def train(request: Request, stop: Stop, read: Read | None = None) -> TrackedRun:
    """Do the same and return the run; ``read`` reads the data, by default those that the parameters name."""
    from mm_balance.commands.training import add_explorer, open_training, print_result
    from mm_balance.workflow.plans import adaptive_plan, check_takes_warmup, warmup_plan
    from mm_balance.workflow.report import accuracies
    from mm_balance.workflow.setup import read_data

    def both_stages(config: Config) -> tuple[StagePlan, StagePlan]:
        check_takes_warmup(config.method.method)
        return warmup_plan(config), adaptive_plan(config)

    with open_training(COMMAND, request, stop, both_stages, read=read or read_data) as training:
        final = run_recipe(*training.plan, training.data, training.run, stop)
        add_explorer(training, training.plan[1].config, stop)
        print_result(training.run, accuracies(final, "test", tuple(training.data.specs)), "test accuracy")
        return training.run


def run_recipe(
    first: StagePlan, second: StagePlan, data: MultimodalData, parent: TrackedRun, stop: Stop
) -> dict[str, float]:
    """Run warm-up, stage 2 and evaluation as nested runs; log final metrics, figures and model on the parent.

    Resumes after an earlier process: finished children are kept, and an unfinished one resumes from its checkpoint. With more
    epochs than before, children are extended; a stage 2 that started from a shorter warm-up is kept, but replaced by a new one.

    Returns:
        The final validation and test metrics.
    """
    from mm_balance.tracking.lookup import children, open_run, page_link
    from mm_balance.workflow.both_stages import BothStages
    from mm_balance.workflow.report import artifact_links, describe_stage, final_validation, publish
    from mm_balance.workflow.runs import run_evaluation, run_stage
    from mm_balance.workflow.stage import saved_points
    from mm_balance.workflow.titles import short_title

    _log_header(second, data, parent)
    known = children(parent)
    series = BothStages(parent)

    def child(stage: str) -> TrackedRun:
        title = short_title("evaluate test" if stage == "evaluate" else stage, second.config, data.name)
        nested = known.get(stage) or open_run(title, parent=parent, tags={"mm.stage": stage})
        nested.reopen()
        return nested

    warmup = known.get("warmup")
    if warmup is None or not _has_ended(warmup, first.epochs):
        warmup = child("warmup")
        run_stage(first, data, warmup, stop, nested=True, on_point=series)
    _raise_if_stopped(stop)
    # A stage 2 cannot be resumed from a warm-up of another length: keep its run, but train a new one.
    if (old := known.get("adaptive")) is not None and _started_from_other_length(old, first.epochs):
        for stage in ("adaptive", "evaluate"):
            if stage in known:
                _replace(known.pop(stage), f"the warm-up has grown to {first.epochs} epochs since")
    # A finished stage 2 is restored from its checkpoint, which costs no training.
    adaptive = child("adaptive")
    result = run_stage(second, data, adaptive, stop, warmup, nested=True, on_point=series)
    points = saved_points(warmup) + result.progress.points
    series.copy(points)
    publishing_metrics = publish(result, parent, points, result.progress.first_epoch)
    _raise_if_stopped(stop)
    tested = child("evaluate")
    test_metrics = run_evaluation(parent, "test", data, tested, first.config.run.device)
    final = test_metrics | final_validation(result)
    # Logged at the last epoch, which only grows: MLflow shows the point of the greatest step, and the best epoch may have moved back.
    parent.log_metrics(final, result.progress.epoch)
    adaptive.log_metrics(publishing_metrics, result.progress.epoch)  # the parent shows results, not times
    parent.set_tags(_stage_tags(warmup, adaptive))
    parts = [
        f"[{label}]({page_link(run)})" for label, run in (("warm-up", warmup), ("stage 2", adaptive), ("test", tested))
    ]
    links = [*artifact_links(tested), *parts]
    description = describe_stage(result, page=parent, command=COMMAND.name, links=links, test=final)
    parent.describe(f"{description}{_mixed_note(series)}")
    parent.terminate("FINISHED")
    return final


def _log_header(second: StagePlan, data: MultimodalData, parent: TrackedRun) -> None:
    """Log tags, configuration and data of the parent run, again whenever it is resumed."""
    from mm_balance import names
    from mm_balance.methods import find_method
    from mm_balance.tracking.environment import environment
    from mm_balance.workflow.card import log_data
    from mm_balance.workflow.provenance import Provenance, fingerprint

    method = find_method(second.method)(second.options, tuple(data.specs), 0)
    provenance = Provenance.new(replace(second, stage=COMMAND.name), method, None)
    parent.set_tags(provenance.tags(data, COMMAND.name, method) | {"mm.fingerprint": fingerprint(second.config, data)})
    parent.log_config(provenance.config)
    parent.log_params(provenance.parameters())
    log_data(parent, data, "training", second.config.data.dataset)
    if names.ENVIRONMENT_FILE not in parent.artifact_names(""):  # later processes are recorded on the nested runs
        parent.log_json(environment(), names.ENVIRONMENT_FILE)


def _has_ended(run: TrackedRun, epochs: int) -> bool:
    """Whether a nested stage has finished with at least ``epochs`` epochs."""
    from mm_balance.workflow.stage import saved_state

    if run.read().info.status != "FINISHED":
        return False
    state = saved_state(run)
    return state is not None and state["progress"]["stage_epoch"] >= epochs


def _started_from_other_length(run: TrackedRun, warmup_epochs: int) -> bool:
    """Whether a stage 2 started from a warm-up of another length."""
    from mm_balance.workflow.stage import saved_state

    state = saved_state(run)
    return state is not None and state["progress"]["first_epoch"] != warmup_epochs


def _replace(run: TrackedRun, why: str) -> None:
    """Mark a nested run as replaced, so that a new one takes its place; nothing else on it changes."""
    stage = run.read().data.tags["mm.stage"]
    run.set_tags({"mm.stage": f"replaced {stage}", "mm.replaced": why})
    run.describe(f"Replaced: {why}.\n\n{run.description()}")


def _mixed_note(series: BothStages) -> str:
    """Return a warning for the parent's page if its series contain points of a stage 2 that was replaced; else nothing."""
    if not series.mixed:
        return ""
    return "\n\nThe series of this run still contain points of a stage 2 that was replaced; those of the nested runs do not."


def _stage_tags(warmup: TrackedRun, adaptive: TrackedRun) -> dict[str, str]:
    """Return the tags of the nested runs that also apply to their parent."""
    tags = {"mm.fingerprint": warmup.read().data.tags["mm.fingerprint"]}
    for name in ("mm.grown", "mm.mixed"):
        values = [known[name] for run in (warmup, adaptive) if name in (known := run.read().data.tags)]
        if values:
            tags[name] = "; ".join(values)
    return tags


def _raise_if_stopped(stop: Stop) -> None:
    """Raise Interrupted between stages if a stop was requested."""
    if stop():
        raise Interrupted


COMMAND = Command(
    name="main",
    help="The whole recipe: warm-up, adaptive training, evaluation, as one run with nested runs.",
    parameters=stage_options("main"),
    common=(
        "dataset",
        "preset",
        "encoder",
        "seed",
        "device",
        "warmup_epochs",
        "adaptive_epochs",
        "learning_rate",
        "method",
        "method_options",
        "gap_weight",
        "resume_run",
    ),
    run=run,
)
