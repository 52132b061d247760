"""The figures of a report: differences to the baseline, and the training of a few rows as in the paper's Figures 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

import numpy as np

from mm_balance import names
from mm_balance.config import ADAPTIVE_METHOD
from mm_balance.config.parameters import PAPER
from mm_balance.figures import (
    Figure,
    Interval,
    accuracies_over_seeds,
    difference_intervals,
    mixture_density,
    mixture_evolution,
    render,
    svg_text,
)
from mm_balance.report.groups import Group
from mm_balance.report.page import ReportFigure
from mm_balance.report.runs import TrainedRun
from mm_balance.report.tables import ID, Measure, Row, Section
from mm_balance.tracking.refits import PublishedRefit, read_refits, refit_epochs, stage_run
from mm_balance.tracking.runs import TrackedRun

MOST_ROWS = 60
"""A figure of more rows would not fit a page."""


def _figure(name: str, title: str, text: str, figure: Figure) -> ReportFigure:
    vector = svg_text(figure).encode()  # first: rendering a PDF fixes the layout
    return ReportFigure(name, title, text, {".svg": vector, **render(figure)})


def interval_figures(section: Section, measures: Sequence[Measure]) -> list[ReportFigure]:
    """Draw the differences of the rows of a table that are compared with another one."""
    compared = [row for row in section.rows if any(row.difference(measure.metric) for measure in measures)][:MOST_ROWS]
    if not compared:
        return []
    intervals = {measure.title: [_interval(row, measure) for row in compared] for measure in measures}
    labels = [row.name for row in compared]
    seeds = sorted({seed for row in compared if row.group for seed in row.group.runs})
    figure = difference_intervals(
        labels,
        intervals,
        title="Accuracy minus that of the baseline",
        caption=f"{section.title}; {_seeds_text(seeds)}",
    )
    text = f"Rows that are compared with another one: {len(compared)} of {len(section.rows)}. Mean difference, paired by seed"
    if any(item is not None and isfinite(item.low) for items in intervals.values() for item in items):
        text += ", and its 95 % interval, not adjusted for the rows; filled: the interval excludes 0"
    return [_figure(f"differences_{section.name}", f"Differences to the baseline: {section.title}", f"{text}.", figure)]


def _seeds_text(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def _interval(row: Row, measure: Measure) -> Interval | None:
    pair = row.difference(measure.metric)
    return None if pair is None else Interval(*(measure.factor * value for value in (pair.mean, pair.low, pair.high)))


def training_figures(rows: Sequence[Row], modalities: Sequence[str]) -> list[ReportFigure]:
    """Draw the training of two rows of each data set and its baseline: of the paper's method, else of any.

    Of several the one with most seeds, then the best on validation. Gaps and mixtures are those of the run with the lowest seed,
    accuracies are means over all seeds.
    """
    figures = []
    for item in _shown(rows):
        run = item.first
        label = item.name if run.data in item.name else f"{item.name}, {run.data}"
        name = "".join(character if character.isalnum() else "_" for character in f"{run.data}_{run.method}")
        figures += _refit_figures(run, name, label, modalities)
        figures += _accuracy_figure(item, name, label, modalities)
    return figures


def _shown(rows: Sequence[Row]) -> list[Group]:
    shown: list[Group] = []
    by_data: dict[str, list[Row]] = {}
    for row in rows:
        if row.group is not None:
            by_data.setdefault(row.group.first.data, []).append(row)
    for own in by_data.values():
        paper = [row for row in own if row.group and row.group.first.method == ADAPTIVE_METHOD]
        chosen = max(paper or own, key=_seeds_then_validation)
        shown += [item for item in (chosen.group, chosen.base) if item is not None]
    return shown


def _seeds_then_validation(row: Row) -> tuple[int, float]:
    values = [] if row.group is None else list(row.group.values("val/accuracy").values())
    return row.number, fmean(values) if values else 0.0


def _refit_figures(run: TrainedRun, name: str, label: str, modalities: Sequence[str]) -> list[ReportFigure]:
    stage = stage_run(TrackedRun(run.run_id))
    if not refit_epochs(stage) or len(modalities) < 2:
        return []
    refits = read_refits(stage)
    leading, other = modalities[0], modalities[1] if len(modalities) == 2 else "the best other"
    caption = f"{label}, seed {run.seed}"
    found = [
        _figure(
            f"gap_mixture_{name}",
            f"Gaps and mixture at the start of the second stage: {label}",
            f"As Fig. 2 of {PAPER}, with validation. Run {run.run_id[:ID]}, seed {run.seed}.",
            _first_density(refits[0], leading, other, caption),
        )
    ]
    if len(refits) > 1:
        figure = mixture_evolution(
            [(refit.epoch, refit.gaps, refit.mixture) for refit in refits],
            validation=[refit.validation for refit in refits], leading=leading, other=other, caption=caption,
        )  # fmt: skip
        text = f"As Fig. 3 of {PAPER}, with validation. Run {run.run_id[:ID]}, seed {run.seed}."
        found.append(_figure(f"mixture_evolution_{name}", f"Mixture over training: {label}", text, figure))
    return found


def _first_density(refit: PublishedRefit, leading: str, other: str, caption: str) -> Figure:
    return mixture_density(
        refit.gaps, refit.mixture, validation=refit.validation, title=f"Modality gap after epoch {refit.epoch}",
        leading=leading, other=other, caption=caption,
    )  # fmt: skip


def _accuracy_figure(item: Group, name: str, label: str, modalities: Sequence[str]) -> list[ReportFigure]:
    metrics = {"fused": "val/accuracy", **{modality: f"val/accuracy_{modality}" for modality in modalities}}
    by_seed = {
        seed: {key: _series(runs[0], metric) for key, metric in metrics.items()}
        for seed, runs in sorted(item.runs.items())
    }
    epochs = sorted(set.intersection(*(set(series) for found in by_seed.values() for series in found.values())))
    if len(epochs) < 2:
        return []
    values = {key: np.array([[found[key][epoch] for epoch in epochs] for found in by_seed.values()]) for key in metrics}
    fused = values.pop("fused")
    run = item.first
    seeds = _seeds_text(sorted(item.runs))
    figure = accuracies_over_seeds(
        epochs, values, fused, _warmup_epochs(run), title=f"Each modality alone: {label}",
        caption=f"{seeds}{': mean and one standard deviation' if len(item.runs) > 1 else ''}",
    )  # fmt: skip
    text = f"As Fig. 4 of {PAPER}: validation accuracy, {seeds}."
    return [_figure(f"unimodal_accuracy_{name}", f"Accuracy over training: {label}", text, figure)]


def _series(run: TrainedRun, metric: str) -> dict[int, float]:
    """Return epoch -> value of a series of validation over both stages."""
    tracked = TrackedRun(run.run_id)
    if run.stage == "main":
        return dict(tracked.metric_series(names.both_stages(metric) or metric))
    before = TrackedRun(run.warmup_run).metric_series(metric) if run.warmup_run else []
    return dict([*before, *tracked.metric_series(metric)])


def _warmup_epochs(run: TrainedRun) -> int | None:
    if run.stage != "main" and not run.warmup_run:
        return None
    recorded = run.settings.get("warmup_epochs")
    return None if recorded is None else int(recorded)
