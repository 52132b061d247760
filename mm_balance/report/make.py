"""Reads the runs of experiments and builds their report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mm_balance
from mm_balance.config.parameters import PAPER
from mm_balance.errors import UserError
from mm_balance.report.drawings import interval_figures, training_figures
from mm_balance.report.groups import (
    check_keys,
    default_baseline,
    group,
    mixed_settings,
    parse_baseline,
    telling_keys,
)
from mm_balance.report.page import Report
from mm_balance.report.people import human_agreements
from mm_balance.report.planned import planned_runs, planned_sections
from mm_balance.report.runs import Collection, TrainedRun, collect
from mm_balance.report.table import LEFT, Cell, Column, ReportTable
from mm_balance.report.tables import (
    DETECTION,
    GAPS,
    ID,
    RESULTS,
    Measure,
    Section,
    accuracies,
    compared_rows,
    counted,
    detection_measures,
    difference_text,
    gap_measures,
    measure_table,
    modalities_of,
    results_table,
    rows_of_groups,
)
from mm_balance.tracking.query import all_runs

SPLITS = {"val": "validation"}
MOST_NAMED = 8
"""A sentence that names more rows would be a table."""


@dataclass(frozen=True)
class ReportRequest:
    """What to report.

    Attributes:
        experiments: names of experiments.
        group_by: settings that tell the rows apart; None = those that do.
        baseline: ``setting=value,...`` of the rows that others are compared with; None = the control.
        split: split of the results.
    """

    experiments: Sequence[str]
    group_by: Sequence[str] | None = None
    baseline: str | None = None
    split: str = "test"


def make_report(request: ReportRequest) -> Report:
    """Read the runs and build the report.

    Raises:
        UserError: no such experiment, no run with results, or a setting that no run has.
    """
    collection = collect(record for name in request.experiments for record in all_runs(name))
    runs = collection.with_results(request.split)
    if not runs:
        raise UserError(_nothing(request, collection))
    modalities = modalities_of(runs, request.split)
    measures = accuracies(request.split, modalities)
    sections = _sections(request, collection, runs)
    groups = [row.group for section in sections for row in section.rows if row.group is not None]
    agreements = human_agreements(groups)
    return Report(
        title=f"Report of {', '.join(request.experiments)}",
        facts={
            "experiments": ", ".join(request.experiments),
            "written": time.strftime("%Y-%m-%d %H:%M"),
            "MM-Balance": mm_balance.__version__,
            "the paper": f"{PAPER} (its losses are partly reconstructed)",
        },
        sentences=_sentences(request, collection, sections, measures, modalities),
        warnings=_warnings(request, collection, sections),
        tables=[
            *(table for section in sections for table in _tables(section, measures, modalities, request.split)),
            *([] if agreements is None else [agreements]),
        ],
        figures=[
            *(
                figure
                for section in sections
                if RESULTS in section.shows
                for figure in interval_figures(section, measures)
            ),
            *training_figures([row for section in sections for row in section.rows], modalities),
        ],
        runs=runs_table(collection, request.split),
    )


def _sections(request: ReportRequest, collection: Collection, runs: Sequence[TrainedRun]) -> list[Section]:
    """Return the tables of `reproduce` first, then all other runs; everything in one if the user says how to group."""
    chosen = request.group_by is not None or request.baseline is not None
    calls = [] if chosen else planned_runs(collection)
    sections = [
        section
        for planned in calls
        for section in planned_sections(planned, request.split, f"_{planned.preset}" if len(calls) > 1 else "")
    ]
    shown = {run.run_id for section in sections for row in section.rows if row.group for run in row.group.all_runs}
    others = [run for run in runs if run.run_id not in shown]
    return [*sections, *([_section_of(request, others)] if others else [])]


def _section_of(request: ReportRequest, runs: Sequence[TrainedRun]) -> Section:
    keys = telling_keys(runs) if request.group_by is None else check_keys(request.group_by, runs)
    groups = group(runs, keys)
    baseline = default_baseline(groups) if request.baseline is None else parse_baseline(request.baseline)
    rows = rows_of_groups(groups, baseline)
    if request.baseline is not None and not any(row.base for row in rows):
        raise UserError(f"baseline={request.baseline}: no row can be compared with a row of these settings")
    return Section("results", f"Results on {request.split}", keys, rows, _baseline_note(baseline))


def _nothing(request: ReportRequest, collection: Collection) -> str:
    where = f"experiment {', '.join(request.experiments)}"
    if not collection.runs:
        return f"{where} has no training run; name another one with experiment=NAME"
    waiting = len(collection.without_results(request.split))
    hint = "evaluate them (`-e evaluate`), or report validation with split=val" if request.split == "test" else ""
    return (
        f"{where} has no finished run with results on {request.split} ({waiting} without{'; ' + hint if hint else ''})"
    )


def _baseline_note(baseline: Mapping[str, str]) -> list[str]:
    if not baseline:
        return []
    named = ", ".join(f"{name}={value}" for name, value in baseline.items())
    return [
        f"Baseline: the row with {named} on the same data; of several the one with most settings in common, by validation."
    ]


def _tables(section: Section, measures: Sequence[Measure], modalities: Sequence[str], split: str) -> list[ReportTable]:
    name, title, labels, rows = section.name, section.title, section.labels, section.rows
    leading = modalities[0] if modalities else "the first modality"
    made: dict[str, ReportTable | None] = {}
    if RESULTS in section.shows:
        made[name] = results_table(name, title, labels, rows, measures, section.notes)
    if GAPS in section.shows:
        made[GAPS] = measure_table(
            f"{name}_gaps", _titled(section, "modality gap and its mixture at the end"), labels, rows, gap_measures(split),
            [f"Positive gap: {leading} is ahead. Training samples are memorized; validation samples cannot be."],
        )  # fmt: skip
    if DETECTION in section.shows:
        made[DETECTION] = measure_table(
            f"{name}_detection", _titled(section, "detection of planted corruption (AUC, training samples)"), labels, rows,
            detection_measures(modalities),
            [
                "Area under the ROC curve at the last refit, 0.5 = chance: of one modality for samples corrupted in that modality, "
                "otherwise for all corrupted samples."
            ],
        )  # fmt: skip
    return [table for table in made.values() if table is not None]


def _titled(section: Section, title: str) -> str:
    return f"{section.prefix}{title}" if section.prefix else f"{title[0].upper()}{title[1:]}"


def _sentences(
    request: ReportRequest,
    collection: Collection,
    sections: Sequence[Section],
    measures: Sequence[Measure],
    modalities: Sequence[str],
) -> list[str]:
    finished = collection.with_results(request.split)
    number = sum(row.group is not None for section in sections for row in section.rows)
    sentences = [
        f"{counted(len(finished), 'run')} with results on {request.split}; {counted(number, 'row')} of tables."
    ]
    for section in sections:
        if RESULTS in section.shows:
            sentences += _comparisons(section, measures[0])
    if len(modalities) > 1:
        for data in dict.fromkeys(run.data for run in finished):
            sentences += _who_is_ahead([run for run in finished if run.data == data], data, modalities, request.split)
    return sentences


def _comparisons(section: Section, measure: Measure) -> list[str]:
    pairs = zip(section.rows, compared_rows(section.rows, measure.metric), strict=True)
    tested = [(row, pair) for row, pair in pairs if pair is not None and pair.n > 1]
    if not tested:
        return []
    named = [f"{row.name}: {difference_text(pair, measure)}" for row, pair in tested if pair.distinct]
    verb = "differ" if len(named) > 1 else "differs"
    first = (
        f"{section.title}: of {counted(len(tested), 'row')} compared with the baseline by {measure.title} accuracy, "
        f"{len(named) or 'none'} {verb} from it (p adjusted over these rows){', by so many points:' if named else '.'}"
    )
    more = len(named) - MOST_NAMED
    return [first, *named[:MOST_NAMED], *([f"... and {more} more: bold in the table."] if more > 0 else [])]


def _who_is_ahead(runs: Sequence[TrainedRun], data: str, modalities: Sequence[str], split: str) -> list[str]:
    """Say in how many runs the first modality is ahead, split by split: an average over rows would be that of different trainings."""
    parts = []
    for name in dict.fromkeys(("val", split)):
        gaps = [run.metrics[f"{name}/gap_mean"] for run in runs if f"{name}/gap_mean" in run.metrics]
        if gaps:
            ahead = sum(gap > 0 for gap in gaps)
            parts.append(
                f"on {SPLITS.get(name, name)} in {ahead} of {len(gaps)} (mean gap {min(gaps):+.2f} to {max(gaps):+.2f})"
            )
    if not parts:
        return []
    return [f"{data}, {counted(len(runs), 'run')} of all rows: {modalities[0]} is ahead {', '.join(parts)}."]


def _warnings(request: ReportRequest, collection: Collection, sections: Sequence[Section]) -> list[str]:
    rows = [row for section in sections for row in section.rows]
    warnings = []
    if failed := collection.failed():
        counts = Counter(run.status.lower() for run in failed)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        warnings.append(f"{counted(len(failed), 'run')} did not finish ({states}): see the list of all runs.")
    if incomplete := sum(row.incomplete for row in rows):
        warnings.append(f"Runs are missing in {incomplete} of {counted(len(rows), 'row')}, which are marked.")
    if waiting := collection.without_results(request.split):
        warnings.append(f"{counted(len(waiting), 'finished run')} without results on {request.split}, in no table.")
    if mixed := mixed_settings(row.group for row in rows if row.group is not None):
        warnings.append(
            f"Rows average over runs of the same seed that differ in {', '.join(mixed)}: add these to group_by."
        )
    if single := sum(row.number == 1 for row in rows):
        warnings.append(
            f"A single seed in {single} of {counted(len(rows), 'row')}: differences say nothing about chance."
        )
    return warnings


def runs_table(collection: Collection, split: str) -> ReportTable:
    """Return one row per run, with every metric and setting in its numbers."""
    columns = [Column(name, LEFT) for name in ("run", "name", "seed", "status")] + [
        Column("accuracy (%)"),
        Column("error", LEFT),
    ]
    rows, numbers = [], []
    for run in collection.runs:
        accuracy = run.metrics.get(f"{split}/accuracy")
        texts = (
            run.run_id[:ID], run.name, "" if run.seed is None else str(run.seed), run.status.lower(),
            "" if accuracy is None else f"{100 * accuracy:.1f}", run.error,
        )  # fmt: skip
        rows.append([Cell(text) for text in texts])
        numbers.append(
            {
                "run": run.run_id, "name": run.name, "command": run.stage, "status": run.status, "error": run.error, "seed": run.seed,
                "code": run.code, **run.settings, **dict(sorted(run.metrics.items())),
            }
        )  # fmt: skip
    notes = [
        f"{counted(collection.nested, 'run')} that belong to another one (stages of main, trials of a study, warm-ups) left out."
    ]
    return ReportTable("runs", "All runs", columns, rows, numbers, notes if collection.nested else [])
