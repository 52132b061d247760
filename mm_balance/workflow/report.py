"""Presentation of a finished stage: figures, the model, a readable description."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mm_balance import names
from mm_balance.config import format_value
from mm_balance.config.parameters import PAPER
from mm_balance.data import MultimodalData
from mm_balance.engine.recorder import MetricPoint
from mm_balance.escaping import markdown_code, markdown_text
from mm_balance.figures import Figure, mixture_density, mixture_evolution, render, unimodal_accuracy
from mm_balance.serving import modality_recipes
from mm_balance.tracking.lookup import experiment_name, find_run, page_link
from mm_balance.tracking.model import log_model
from mm_balance.tracking.refits import read_refit, read_refits, run_caption
from mm_balance.tracking.runs import ModelOnData, TrackedRun
from mm_balance.workflow.gap_report import doubts_note, gap_findings, gap_table, gap_warnings, remedies, source_note
from mm_balance.workflow.model_card import model_card
from mm_balance.workflow.next_steps import CONTROL, next_steps
from mm_balance.workflow.stage import StageResult
from mm_balance.workflow.verdict import Scores, against_chance, chance_level, disagreement, gained, who_is_ahead


def publish(result: StageResult, target: TrackedRun, points: list[MetricPoint], warmup_epochs: int) -> dict[str, float]:
    """Log figures and model of ``result`` on ``target`` (its own run, or the parent of a nested one).

    Args:
        result: the finished stage.
        target: the run to log to.
        points: the points to plot: those of the stage, or of both stages.
        warmup_epochs: epoch at which the first stage ended.

    Returns:
        Timing metrics for the caller to log: MLflow shows metrics in the order they were logged.
    """
    started = time.perf_counter()
    _log_figures(result, target, points, warmup_epochs)
    _log_model(result, target)
    return {"time/publishing_seconds": time.perf_counter() - started}


def _log_model(result: StageResult, target: TrackedRun) -> None:
    """Log the model with its card, and show the validation metrics of its epoch on its page."""
    stage, config, point = result.stage, result.plan.config, _selected_point(result)
    recipes = modality_recipes(stage.data, config.input)
    accuracy = accuracies(point.metrics, "val", stage.model.modalities, branches=stage.method.sees_others())
    uri = log_model(
        target,
        stage.model,
        stage.data,
        result.epoch,
        recipes=recipes,
        card=model_card(result, recipes, target.run_id, headline(result), accuracy),
        register_as=config.registry.register_as,
    )
    if target.run_id != result.run.run_id:  # MLflow itself copies the metrics of the run that the model is logged on
        result.run.log_points([point], ModelOnData(uri, stage.data))


def _log_figures(result: StageResult, target: TrackedRun, points: list[MetricPoint], warmup_epochs: int) -> None:
    refits = read_refits(result.run)
    caption = run_caption(result.run)
    modalities = list(result.stage.model.modalities)
    branches = result.stage.method.sees_others()
    labels = [f"{name} branch" if branches else name for name in modalities]
    leading, other = labels[0], labels[1] if len(labels) == 2 else "the best other"
    first = refits[0]
    density = mixture_density(
        first.gaps, first.mixture, validation=first.validation, title=f"Modality gap after epoch {first.epoch}",
        leading=leading, other=other, caption=caption,
    )  # fmt: skip
    target.log_figure(render(density), names.GAP_FIGURE)
    curves = accuracy_figure(points, modalities, warmup_epochs, branches=branches, caption=caption)
    target.log_figure(render(curves), names.ACCURACY_FIGURE)
    if len(refits) > 1:
        series = [(refit.epoch, refit.gaps, refit.mixture) for refit in refits]
        validation = [refit.validation for refit in refits]
        evolution = mixture_evolution(series, validation=validation, leading=leading, other=other, caption=caption)
        target.log_figure(render(evolution), names.EVOLUTION_FIGURE)


def accuracy_figure(
    points: list[MetricPoint], modalities: list[str], warmup_epochs: int, *, branches: bool = False, caption: str = ""
) -> Figure:
    """Plot the validation accuracy per modality (or branch) and fused, over epochs (Fig. 4)."""
    validated = [point for point in points if "val/accuracy" in point.metrics]
    return unimodal_accuracy(
        [point.step for point in validated],
        {name: [point.metrics[f"val/accuracy_{name}"] for point in validated] for name in modalities},
        fused=[point.metrics["val/accuracy"] for point in validated],
        warmup_epochs=warmup_epochs,
        branches=branches,
        caption=caption,
    )


def final_validation(result: StageResult) -> dict[str, float]:
    """Return the validation metrics of the selected epoch."""
    return _selected_point(result).metrics


def _selected_point(result: StageResult) -> MetricPoint:
    """Return the validation metrics of the selected epoch as the point that the stage's run has."""
    point = next(
        item for item in result.progress.points if item.step == result.epoch and "val/accuracy" in item.metrics
    )
    metrics = {name: value for name, value in point.metrics.items() if name.startswith("val/")}
    return MetricPoint(point.step, point.time, metrics)


def describe_data(data: MultimodalData) -> str:
    """Return the Markdown description of a run that prepared data."""
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    lines = [
        f"**{markdown_text(data.name)}** prepared: {sizes}; {len(data.classes)} classes, {len(data.skipped)} skipped, "
        f"{len(data.excluded)} excluded by the data set's own recipe.",
        "",
        f"Recipe: {markdown_text(data.recipe)}.",
        "",
        *(f"- {markdown_text(note)}" for note in data.notes),
        *(f"- Warning: {markdown_text(warning)}." for warning in data.warnings),
        "",
        f"Artifacts: `{names.DATA_FOLDER}/{names.CARD_FILE}`, `{names.DATA_FOLDER}/{names.SHEET_FILE}`.",
    ]
    return "\n".join(lines)


def describe_stage(
    result: StageResult,
    *,
    page: TrackedRun | None = None,
    command: str | None = None,
    links: Sequence[str] = (),
    test: Mapping[str, float] | None = None,
) -> str:
    """Return the Markdown description of a run: the verdict, what was trained, how the gaps changed, what to do next.

    Args:
        result: the finished stage.
        page: the run to describe, which has the figures; None = the stage's own.
        command: the command whose run it is; None = it is a part of another run, which says what to do next.
        links: more links to show.
        test: the test metrics, where it was tested.
    """
    plan, stage, method = result.plan, result.stage, result.stage.method
    page = page or result.run
    selection = plan.config.selection.selection if plan.select_best else "last"
    source = "" if plan.stage == "warmup" else f" Source of the method: {method.citation}."
    trained = f"**{headline(result)}** on {markdown_code(stage.data.name)}, seed {stage.seed}, {result.progress.epoch} epochs.{source}"
    leads, last = who_leads(result, test), _last_refit(result)
    # MLflow shows about four lines until one clicks: the results and who is ahead must be among them.
    lines = [
        *([trained, *leads] if test is None else [*leads, trained]),
        *progress_made(result),
        f"Validation is that of epoch {result.epoch} (`selection={selection}`).",
        "",
        *gap_findings(last, result.progress.gap_fit, _shown_names(result), plan.mixture),
        *(f"- **Warning:** {markdown_text(warning)}." for warning in stage.data.warnings),
    ]
    if shown := [*artifact_links(page), *links]:
        lines += ["", f"See {', '.join(shown)}."]
    if command is not None:
        from_scratch = command == "main" or result.progress.first_epoch == 0
        steps = next_steps(
            command,
            plan.config,
            page.run_id,
            from_scratch=from_scratch,
            warmup_run=(stage.record.get("warmup") or {}).get("run_id"),
            remedies=remedies(gap_warnings(last, result.progress.gap_fit, plan.mixture)),
            experiment=experiment_name(page),
        )
        lines += ["", NEXT, "", *steps]
    lines += ["", *gap_table(result.progress.points, _first_validation(result)), "", *notes(result)]
    if plan.stage != "warmup":
        values = {name: format_value(value) for name, value in asdict(method.options).items()}
        options = ", ".join(f"`{name}={value}`" for name, value in values.items()) or "none"
        lines += ["", f"Options of method `{method.name}`: {options}."]
    return "\n".join(lines)


def describe_evaluation(
    source: TrackedRun, run: TrackedRun, split: str, epoch: int, samples: int, errors: Mapping[str, float], shown: str
) -> str:
    """Return the Markdown description of an evaluation.

    Args:
        source: the run whose model was evaluated.
        run: the run of the evaluation.
        split: the split.
        epoch: epoch of the model.
        samples: size of the split.
        errors: expected calibration errors by prediction, 0 to 1.
        shown: the accuracies, as ``accuracies`` formats them.
    """
    trained = source.read()
    calibration = ", ".join(f"{name} {100 * value:.1f} %" for name, value in errors.items())
    return "\n".join(
        [
            f"{split.capitalize()} accuracy: {shown} ({samples:,} samples).",
            f"Expected calibration error: {calibration}.",
            f"Model of [{trained.info.run_name}]({page_link(source)}), run `{source.run_id}`, after epoch {epoch}.",
            "",
            f"See {', '.join(artifact_links(run))}.",
        ]
    )


NEXT = "What next:"
"""Line above the list of what to do next."""
LINKED = {
    f"{names.DATA_FOLDER}/{names.SHEET_FILE}": "the data",
    names.EXPLORER_FILE: "see and hear the samples",
    names.ACCURACY_FIGURE: "accuracy over epochs",
    names.EVOLUTION_FIGURE: "gaps over epochs",
    names.GAP_FIGURE: "the first mixture",
    names.CONFUSION_FIGURE: "confusions",
    names.RELIABILITY_FIGURE: "calibration",
    names.CLASS_GAP_FIGURE: "gap per class",
    f"{names.CLASS_TABLE}.json": "table of classes",
    f"{names.SUMMARY_TABLE}.json": "times and costs",
}
"""Artifacts that a run's description links to, where the run has them -> what they show."""


def artifact_links(run: TrackedRun) -> list[str]:
    """Return Markdown links to those artifacts of ``LINKED`` that ``run`` has."""
    folders = {path.rpartition("/")[0] for path in LINKED}
    present = {name for folder in sorted(folders) for name in run.artifact_names(folder)}
    return [f"[{label}]({page_link(run, path)})" for path, label in LINKED.items() if path in present]


def who_leads(result: StageResult, test: Mapping[str, float] | None) -> list[str]:
    """Return accuracies and who is ahead, on test where it was tested, and on validation, as sentences."""
    data, shown = result.stage.data, _shown_by_modality(result)
    validation, validated = Scores.of(final_validation(result), "val", shown), len(data.splits["val"])
    lines = [who_is_ahead("validation", validation, validated)]
    if test is None:
        return lines
    tested, count = Scores.of(test, "test", shown), len(data.splits["test"])
    others = disagreement(validation, validated, tested, count, other_groups=have_other_groups(data))
    return [who_is_ahead("test", tested, count), *lines, *others]


def progress_made(result: StageResult) -> list[str]:
    """Return validation accuracies against the warm-up, if it is known, and against chance, as sentences."""
    splits, shown = result.stage.data.splits, _shown_by_modality(result)
    scores = Scores.of(final_validation(result), "val", shown)
    before = _after_warmup(result, shown)
    chance = chance_level(splits["train"].labels, splits["val"].labels, len(result.stage.data.classes))
    compared = [] if before is None else [gained(scores, before, is_control=result.stage.method.name == CONTROL)]
    return [*compared, against_chance(scores, len(splits["val"]), chance)]


def have_other_groups(data: MultimodalData) -> bool:
    """Whether the data set names groups in validation and test, and none is in both."""
    groups: dict[str, set[str]] = {"val": set(), "test": set()}
    for split, group in zip(data.table.get("split", []), data.table.get("group", []), strict=False):
        if group and split in groups:
            groups[split].add(group)
    return all(groups.values()) and not groups["val"] & groups["test"]


def _first_validation(result: StageResult) -> dict[int, dict[str, float]]:
    """Return what the first point of a stage 2 lacks: the validation gaps at the fit that it starts from."""
    first = result.progress.first_epoch
    logged = next((point for point in result.progress.points if "gap/mean" in point.metrics), None)
    if logged is None or logged.step != first or "val/gap_mean" in logged.metrics:
        return {}
    validation = read_refit(result.run, first).validation
    if validation is None:
        return {}
    gaps, mixture = validation
    return {
        first: {
            "val/gap_mean": float(gaps.mean()),
            "val/gap_mean_abs": float(abs(gaps).mean()),
            "val/density_at_zero": mixture.density_at_zero,
        }
    }


def _after_warmup(result: StageResult, shown: Mapping[str, str]) -> Scores | None:
    """Return the validation accuracies of the warm-up run at the epoch from which the stage started."""
    followed = result.stage.record.get("warmup")
    warmup = None if followed is None else find_run(followed["run_id"])
    if warmup is None:
        return None
    epoch, metrics = result.progress.first_epoch, {}
    for name in ("val/accuracy", *(f"val/accuracy_{modality}" for modality in shown)):
        series = dict(warmup.metric_series(name))
        if epoch in series:
            metrics[name] = series[epoch]
    return Scores.of(metrics, "val", shown) if len(metrics) == len(shown) + 1 else None


def _last_refit(result: StageResult) -> Mapping[str, float]:
    """Return the metrics of the epoch of the last refit."""
    return next((point.metrics for point in reversed(result.progress.points) if "gap/mean" in point.metrics), {})


def _shown_names(result: StageResult) -> list[str]:
    """Return the modalities' names, as branches where they see each other."""
    suffix = " branch" if result.stage.method.sees_others() else ""
    return [f"{name}{suffix}" for name in result.stage.model.modalities]


def _shown_by_modality(result: StageResult) -> dict[str, str]:
    return dict(zip(result.stage.model.modalities, _shown_names(result), strict=True))


def headline(result: StageResult) -> str:
    """Return what was trained, in a few words."""
    if result.plan.stage != "warmup":
        return result.stage.method.headline()
    joint = result.plan.config.warmup.warmup_unimodal_weight == 0
    return f"Warm-up ({'joint training' if joint else 'joint training + unimodal losses'})"


def accuracies(
    metrics: Mapping[str, float], prefix: str, modalities: tuple[str, ...], *, branches: bool = False
) -> str:
    """Format as ``fused 93.1 %, audio 80.2 %, visual 71.0 %``; with ``branches``, which see each other, ``audio branch 80.2 %``."""
    suffix = " branch" if branches else ""
    parts = [f"fused **{100 * metrics[f'{prefix}/accuracy']:.1f} %**"]
    parts += [f"{name}{suffix} {100 * metrics[f'{prefix}/accuracy_{name}']:.1f} %" for name in modalities]
    return ", ".join(parts)


SEVERAL_CLASSES_NOTE = (
    "Samples may have several true classes. **Accuracy** is the share of samples whose most probable class is one of them. "
    "Probabilities are those of the sigmoid, averaged over the true classes (ours: the paper has one class per sample)."
)


def notes(result: StageResult) -> list[str]:
    """Return notes that a reader needs to interpret the numbers."""
    data = result.stage.data
    lead, *others = result.stage.model.modalities
    lines = [
        f"Gap = p_{lead} - p_{others[0] if len(others) == 1 else 'best other'} of the true class (Eq. 6 of {PAPER}): positive "
        f"means {lead} is ahead. It is a difference of probabilities, not of accuracies.",
        *([SEVERAL_CLASSES_NOTE] if data.several_classes else []),
        *([] if result.progress.gap_fit is None else [source_note(result.progress.gap_fit.source)]),
        *result.stage.method.notes(),
        f"Data: {markdown_text(data.source)} Sizes: {', '.join(f'{name} {size}' for name, size in data.counts.items())}.",
    ]
    truth = [point for point in result.progress.points if "truth/auc_gap_abs" in point.metrics]
    if truth:
        value = truth[-1].metrics
        lines.append(
            f"Detection of planted corruption in training at the last refit (AUC): abs(gap) {value['truth/auc_gap_abs']:.3f}, "
            f"posterior {value['truth/auc_posterior']:.3f}, -log p {value['truth/auc_loss']:.3f}."
        )
    if result.progress.gap_fit is not None and result.progress.gap_fit.doubts:
        lines.append(doubts_note(result.progress.gap_fit, truth[-1].metrics if truth else {}))
    return lines
