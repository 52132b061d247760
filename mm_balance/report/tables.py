"""The tables of a report, from groups of runs. Pure: values in, cells out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mm_balance.report.cited import CitedNumber
from mm_balance.report.groups import STAGE, Group, baseline_of, is_baseline
from mm_balance.report.runs import TrainedRun
from mm_balance.report.statistics import Difference, Spread, adjusted, difference, spread
from mm_balance.report.table import EMPTY, LEFT, MISSING, Cell, Column, ReportTable

TITLES = {STAGE: "entry point", "dataset": "data set", "corruption_kind": "kind of corruption"}
"""Setting -> its heading, where that is not its name with spaces."""
RESULTS, GAPS, DETECTION = "results", "gaps", "detection"
ID = 8
"""Characters of a run's id that are shown."""


@dataclass(frozen=True)
class Measure:
    """A quantity that is a share of samples (shown in percent) or a number.

    Attributes:
        metric: its name among the run's metrics.
        title: heading.
        factor: 100 = shown in percent, and differences in points.
        digits: decimal places.
    """

    metric: str
    title: str
    factor: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Row:
    """A row: what it is called, its runs, and what it is compared with.

    Attributes:
        labels: one text per label column.
        group: its runs; None = there are none.
        base: the group that it is compared with; None = nothing.
        wanted: how many seeds there should be; 0 = not known.
        failed: runs of it that failed.
        cited: source -> the number that others report.
        is_base: whether others are compared with it.
    """

    labels: Sequence[str]
    group: Group | None
    base: Group | None = None
    wanted: int = 0
    failed: Sequence[TrainedRun] = ()
    cited: Mapping[str, CitedNumber] | None = None
    is_base: bool = False

    @property
    def number(self) -> int:
        """Number of seeds that it has."""
        return 0 if self.group is None else len(self.group.runs)

    @property
    def incomplete(self) -> bool:
        """Whether runs are missing."""
        return self.number < max(self.wanted, 1)

    @property
    def name(self) -> str:
        """Its labels in one line."""
        return ", ".join(filter(None, self.labels)) if self.group is None else self.group.name

    def difference(self, metric: str) -> Difference | None:
        """Return the difference to its base, paired by seed; None if it has none."""
        if self.group is None or self.base is None:
            return None
        return difference(self.group.values(metric), self.base.values(metric))


@dataclass(frozen=True)
class Section:
    """Rows that belong together.

    Attributes:
        name: of its table's files.
        title: its heading.
        labels: headings of the label columns.
        rows: its rows.
        notes: sentences below its table.
        shows: which tables are made of these rows: ``RESULTS``, ``GAPS``, ``DETECTION``.
        prefix: of the titles of the further tables; empty where there is no other table of these runs.
    """

    name: str
    title: str
    labels: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    shows: Sequence[str] = (RESULTS, GAPS, DETECTION)
    prefix: str = ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def accuracies(split: str, modalities: Sequence[str]) -> list[Measure]:
    """Return the accuracies of a split: fused and of each modality alone."""
    return [
        Measure(f"{split}/accuracy", "fused", 100, 1),
        *(Measure(f"{split}/accuracy_{name}", name, 100, 1) for name in modalities),
    ]


def rows_of_groups(groups: Sequence[Group], baseline: Mapping[str, str]) -> list[Row]:
    """Return one row per group, with what it is compared with."""
    return [
        Row(
            list(item.key.values()),
            item,
            baseline_of(item, groups, baseline, metric="val/accuracy"),
            is_base=bool(baseline) and is_baseline(item, baseline),
        )
        for item in groups
    ]


def results_table(
    name: str, title: str, labels: Sequence[str], rows: Sequence[Row], measures: Sequence[Measure], notes: Iterable[str]
) -> ReportTable:
    """Build a table of results: mean, standard deviation, n, differences to the base of each row, cited numbers, run ids.

    The p-values of the differences of the first measure are one family (Holm); the others are not tested.

    Args:
        name: of the table.
        title: heading.
        labels: headings of the label columns.
        rows: its rows.
        measures: what is shown; differences are taken of each.
        notes: sentences below it.
    """
    differences = _differences(rows, measures)
    compared = [
        measure for measure in measures if any(differences[number, measure.metric] for number in range(len(rows)))
    ]
    tested = any(pair is not None and pair.adjusted is not None for pair in differences.values())
    sources = list(dict.fromkeys(source for row in rows for source in row.cited or {}))
    columns = [
        *(Column(TITLES.get(label, label.replace("_", " ")), LEFT) for label in labels),
        Column("n"),
        *(Column(f"{measure.title}{_unit(measure)}") for measure in measures),
        # On paper the first difference must do: with all of them a table is too wide for a page.
        *(Column(f"{measure.title} - baseline", web_only=measure is not measures[0]) for measure in compared),
        *([Column("p (Holm)")] if tested else []),
        *(Column(source) for source in sources),
        Column("runs", LEFT, web_only=True),
    ]
    shown, numbers = [], []
    for number, row in enumerate(rows):
        own = {measure.metric: differences[number, measure.metric] for measure in compared}
        shown.append(
            [
                *(Cell(text) for text in row.labels),
                _count(row),
                *(_spread_cell(row, measure) for measure in measures),
                *(_difference_cell(row, own[measure.metric], measure) for measure in compared),
                *([_p_cell(own[compared[0].metric])] if tested else []),
                *(_cited_cell((row.cited or {}).get(source)) for source in sources),
                _runs_cell(row),
            ]
        )
        numbers.append(_numbers(labels, row, measures, own, sources))
    return ReportTable(
        name=name,
        title=title,
        columns=columns,
        rows=shown,
        numbers=numbers,
        notes=[*notes, *_notes(rows, compared, sources, tested=tested)],
        incomplete=frozenset(number for number, row in enumerate(rows) if row.incomplete),
    )


def compared_rows(rows: Sequence[Row], metric: str) -> list[Difference | None]:
    """Return the difference of each row to its base; None where it has none. P-values are adjusted over the rows."""
    return adjusted([row.difference(metric) for row in rows])


def _differences(rows: Sequence[Row], measures: Sequence[Measure]) -> dict[tuple[int, str], Difference | None]:
    first, *others = measures
    found = {(number, first.metric): pair for number, pair in enumerate(compared_rows(rows, first.metric))}
    return found | {
        (number, measure.metric): row.difference(measure.metric)
        for number, row in enumerate(rows)
        for measure in others
    }


def _unit(measure: Measure) -> str:
    return " (%)" if measure.factor == 100 else ""


def _count(row: Row) -> Cell:
    if row.wanted and row.number < row.wanted:
        return Cell(f"{row.number} of {row.wanted}")
    return Cell(str(row.number))


def _spread_cell(row: Row, measure: Measure) -> Cell:
    found = None if row.group is None else spread(list(row.group.values(measure.metric).values()))
    if found is None:
        return Cell(_why_missing(row)) if row.group is None else EMPTY
    return Cell(spread_text(found, measure))


def _why_missing(row: Row) -> str:
    return "failed" if row.failed else MISSING


def spread_text(found: Spread, measure: Measure) -> str:
    """Return ``mean ± standard deviation``; a single value has none."""
    mean = f"{measure.factor * found.mean:.{measure.digits}f}"
    return mean if math.isnan(found.deviation) else f"{mean} ± {measure.factor * found.deviation:.{measure.digits}f}"


def difference_text(found: Difference, measure: Measure) -> str:
    """Return the difference with its interval; a single pair has none."""
    mean, low, high = (f"{measure.factor * value:+.{measure.digits}f}" for value in (found.mean, found.low, found.high))
    return mean if found.n < 2 else f"{mean} [{low}, {high}]"


def _difference_cell(row: Row, found: Difference | None, measure: Measure) -> Cell:
    if found is not None:
        return Cell(difference_text(found, measure), found.distinct)
    if row.is_base:
        return Cell("baseline")
    if row.group is None:
        return EMPTY
    return Cell("no baseline" if row.base is None else "no common seed")


def _p_cell(found: Difference | None) -> Cell:
    if found is None or found.adjusted is None:
        return EMPTY
    return Cell("< 0.001" if found.adjusted < 0.001 else f"{found.adjusted:.3f}", found.distinct)


def _cited_cell(found: CitedNumber | None) -> Cell:
    return EMPTY if found is None else Cell(f"{found.percent:.2f} ± {found.error:.1f}")


def _runs_cell(row: Row) -> Cell:
    done = [] if row.group is None else [run.run_id[:ID] for run in row.group.all_runs]
    return Cell(" ".join([*done, *(f"{run.run_id[:ID]} (failed)" for run in row.failed)]))


def _numbers(
    labels: Sequence[str],
    row: Row,
    measures: Sequence[Measure],
    differences: Mapping[str, Difference | None],
    sources: Sequence[str],
) -> dict[str, Any]:
    line: dict[str, Any] = {**dict(zip(labels, row.labels, strict=True)), "n": row.number}
    for measure in measures:
        found = None if row.group is None else spread(list(row.group.values(measure.metric).values()))
        line[measure.metric] = None if found is None else found.mean
        line[f"{measure.metric} standard deviation"] = None if found is None else found.deviation
    for metric, pair in differences.items():
        for name in ("mean", "low", "high", "p", "adjusted"):
            line[f"{metric} difference {name}"] = None if pair is None else getattr(pair, name)
    line["baseline"] = "" if row.base is None else " ".join(run.run_id for run in row.base.all_runs)
    for source in sources:
        cited = (row.cited or {}).get(source)
        line[source] = None if cited is None else cited.percent
        line[f"{source} standard error"] = None if cited is None else cited.error
    line["seeds"] = "" if row.group is None else " ".join(str(seed) for seed in sorted(row.group.runs))
    line["runs"] = "" if row.group is None else " ".join(run.run_id for run in row.group.all_runs)
    line["failed"] = " ".join(run.run_id for run in row.failed)
    return line


def _notes(rows: Sequence[Row], compared: Sequence[Measure], sources: Sequence[str], *, tested: bool) -> list[str]:
    notes = []
    if compared:
        notes.append("Differences are paired by seed, in points.")
    if tested:
        notes[-1] += (
            " Brackets: 95 % interval (Student's t) over training seeds, not adjusted. "
            f"p: of {compared[0].title} - baseline, adjusted for the rows of this table (Holm); bold below 0.05."
        )
    if any(row.number > 1 for row in rows):
        notes.append("±: standard deviation over training seeds.")
    if sources:
        notes.append(
            "Cited numbers are single runs on other data than these unless the data set is named the same; ±: their binomial standard "
            "error."
        )
    if repeated := sum(row.group.repeated for row in rows if row.group is not None):
        notes.append(f"{counted(repeated, 'older run')} with the same settings and seed left out.")
    if seeing := [row.name for row in rows if row.group and any(run.branches for run in row.group.all_runs)]:
        notes.append(
            f"Not of one modality alone: what stands under a modality of {', '.join(seeing)} is a branch that sees the others, too."
        )
    codes = {run.code for row in rows if row.group for run in row.group.all_runs}
    if len(codes) > 1:
        notes.append(f"These runs were trained by {len(codes)} versions of the training code.")
    for row in rows:
        notes += [f"{', '.join(row.labels)}, seed {run.seed}: {run.error or run.status.lower()}." for run in row.failed]
    return notes


def measure_table(
    name: str,
    title: str,
    labels: Sequence[str],
    rows: Sequence[Row],
    measures: Sequence[Measure],
    notes: Sequence[str],
) -> ReportTable | None:
    """Build a table of means and standard deviations without comparison; None if no row has any of the measures."""
    used = [measure for measure in measures if any(row.group and row.group.values(measure.metric) for row in rows)]
    chosen = [row for row in rows if row.group and any(row.group.values(measure.metric) for measure in used)]
    if not used:
        return None
    return results_table(name, title, labels, [Row(row.labels, row.group, is_base=True) for row in chosen], used, notes)


def gap_measures(split: str) -> list[Measure]:
    """Return the measures of the table of gaps: on the split, on validation, and on training samples at the last refit."""
    return [
        *([] if split == "val" else [Measure(f"{split}/gap_mean", f"mean gap, {split}")]),
        Measure("val/gap_mean", "mean gap, validation"),
        Measure("gap/mean", "mean gap, training samples"),
        Measure("val/gap_mean_abs", "mean abs(gap), validation"),
        Measure("gap/mean_abs", "mean abs(gap), training samples"),
        Measure("gmm/imbalanced_weight", "weight of imbalanced"),
        Measure("gmm/imbalanced_mean", "mean of imbalanced"),
        Measure("val/density_at_zero", "density at zero, validation"),
        Measure("gmm/density_at_zero", "density at zero, training samples"),
    ]


def detection_measures(modalities: Sequence[str]) -> list[Measure]:
    """Return the measures of the table of detection: areas under the ROC curve at the last refit."""
    return [
        Measure("truth/auc_gap_abs", "abs(gap)", digits=3),
        Measure("truth/auc_posterior", "posterior imbalanced", digits=3),
        Measure("truth/auc_loss", "-log p fused", digits=3),
        *(Measure(f"truth/auc_sign_{name}", f"signed gap: {name}", digits=3) for name in modalities),
        *(Measure(f"truth/auc_doubt_{name}", f"doubt: {name}", digits=3) for name in modalities),
    ]


def modalities_of(runs: Iterable[TrainedRun], split: str) -> list[str]:
    """Return the modalities that the runs report on ``split``, in the order of their setting ``modalities``."""
    runs = list(runs)
    named = dict.fromkeys(name for run in runs for name in run.settings.get("modalities", "").split(",") if name)
    return [name for name in named if any(f"{split}/accuracy_{name}" in run.metrics for run in runs)]
