"""Reads the runs of experiments and builds their report."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mm_balance
from mm_balance.errors import UserError
from mm_balance.report.drawings import interval_figures, shown_groups, training_figures
from mm_balance.report.groups import (
    baseline_of,
    check_keys,
    default_baseline,
    group,
    mixed_settings,
    parse_baseline,
    telling_keys,
)
from mm_balance.report.page import Report
from mm_balance.report.people import human_agreements
from mm_balance.report.runs import Collection, collect
from mm_balance.report.statistics import spread
from mm_balance.report.table import LEFT, Cell, Column, ReportTable
from mm_balance.report.tables import (
    ID,
    Measure,
    Row,
    accuracies,
    compared_rows,
    detection_measures,
    difference_text,
    gap_measures,
    measure_table,
    modalities_of,
    results_table,
    rows_of_groups,
)
from mm_balance.tracking.query import all_runs

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
    keys = telling_keys(runs) if request.group_by is None else check_keys(request.group_by, runs)
    groups = group(runs, keys)
    baseline = default_baseline(groups) if request.baseline is None else parse_baseline(request.baseline)
    if request.baseline is not None and not any(
        baseline_of(item, groups, baseline, metric="val/accuracy") for item in groups
    ):
        raise UserError(f"baseline={request.baseline}: no row can be compared with a row of these settings")
    modalities = modalities_of(runs, request.split)
    rows = rows_of_groups(groups, baseline)
    measures = accuracies(request.split, modalities)
    tables = [results_table("results", f"Accuracy on {request.split}", keys, rows, measures, _baseline_note(baseline))]
    tables += _further_tables(keys, rows, modalities, request.split)
    shown = shown_groups(groups, baseline)
    agreements = human_agreements(groups)
    if agreements:
        tables.append(agreements)
    return Report(
        title=f"Report of {', '.join(request.experiments)}",
        facts={
            "experiments": ", ".join(request.experiments),
            "written": time.strftime("%Y-%m-%d %H:%M"),
            "MM-Balance": mm_balance.__version__,
            "machine of the report": platform.machine(),
        },
        sentences=_sentences(request, collection, rows, measures, modalities),
        warnings=_warnings(request, collection, rows),
        tables=tables,
        figures=[*interval_figures(rows, measures), *training_figures(shown, modalities)],
        runs=runs_table(collection, request.split),
    )


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


def _further_tables(
    keys: Sequence[str], rows: Sequence[Row], modalities: Sequence[str], split: str
) -> list[ReportTable]:
    leading = modalities[0] if modalities else "the first modality"
    candidates = [
        measure_table(
            "gaps", "Modality gap and its mixture at the end", keys, rows, gap_measures(split, leading),
            [f"Positive gap: {leading} is ahead. Training samples are memorized; validation samples cannot be."],
        ),
        measure_table(
            "detection", "Detection of planted corruption (AUC, training samples)", keys, rows, detection_measures(modalities),
            [
                "Area under the ROC curve at the last refit, 0.5 = chance. Signed gaps and doubts: for samples corrupted in that "
                "modality; the others: for all corrupted samples."
            ],
        ),
    ]  # fmt: skip
    return [table for table in candidates if table is not None]


def _sentences(
    request: ReportRequest,
    collection: Collection,
    rows: Sequence[Row],
    measures: Sequence[Measure],
    modalities: Sequence[str],
) -> list[str]:
    fused = measures[0]
    finished = collection.with_results(request.split)
    sentences = [f"{len(finished)} runs with results on {request.split}, in {len(rows)} rows of the same settings."]
    pairs = zip(rows, compared_rows(rows, fused.metric), strict=True)
    tested = [(row, pair) for row, pair in pairs if pair is not None and pair.n > 1]
    if tested:
        named = [f"{row.name}: {difference_text(pair, fused)}" for row, pair in tested if pair.distinct]
        sentences.append(
            f"Of {len(tested)} rows compared with the baseline by fused accuracy (p adjusted over these), "
            f"{len(named) or 'none'} {'differ' if len(named) > 1 else 'differs'} from it{', by so many points' if named else ''}"
            + (":" if named else ".")
        )
        sentences += named[:MOST_NAMED]
        if len(named) > MOST_NAMED:
            sentences.append(f"... and {len(named) - MOST_NAMED} more: bold in the first table.")
    if len(modalities) > 1:
        for data in dict.fromkeys(run.data for run in finished):
            gaps = [
                run.metrics["val/gap_mean"] for run in finished if run.data == data and "val/gap_mean" in run.metrics
            ]
            if (found := spread(gaps)) is not None:
                ahead = (
                    modalities[0] if found.mean > 0 else "the other modality" if len(modalities) > 2 else modalities[1]
                )
                sentences.append(
                    f"On {data}, {ahead} is ahead: mean gap on validation {found.mean:+.2f} over {found.n} runs of all rows."
                )
    return sentences


def _warnings(request: ReportRequest, collection: Collection, rows: Sequence[Row]) -> list[str]:
    warnings = []
    if failed := collection.failed():
        counts = Counter(run.status.lower() for run in failed)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        warnings.append(f"{len(failed)} runs did not finish ({states}); they are in the list of all runs.")
    if waiting := collection.without_results(request.split):
        warnings.append(f"{len(waiting)} finished runs have no results on {request.split} and are in no table.")
    if mixed := mixed_settings(row.group for row in rows if row.group is not None):
        warnings.append(
            f"Rows average over runs of the same seed that differ in {', '.join(mixed)}: add these to group_by."
        )
    if any(row.number == 1 for row in rows):
        single = sum(row.number == 1 for row in rows)
        warnings.append(f"{single} of {len(rows)} rows have a single seed: their differences say nothing about chance.")
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
    notes = [f"{collection.nested} runs that belong to another one (stages of main, trials of a study) are left out."]
    return ReportTable("runs", "All runs", columns, rows, numbers, notes if collection.nested else [])
