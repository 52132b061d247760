"""Tables whose rows are known beforehand, those of `reproduce`: what is missing is visible as missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mm_balance.config import AUTO
from mm_balance.report import cited
from mm_balance.report.cited import CitedNumber
from mm_balance.report.groups import Group
from mm_balance.report.runs import Collection, TrainedRun
from mm_balance.report.tables import DETECTION, GAPS, RESULTS, Row, Section
from mm_balance.reproduction.plan import Place, configuration, preset_of, settings_of
from mm_balance.reproduction.tables import Row as PlannedRow
from mm_balance.reproduction.tables import Table, tables_of

GROUPS: Mapping[str, str] = {"optimizer": "optimizer", "detection": "kind of corruption", "regimes": "regime"}
"""Table -> what its groups are."""
SHOWS: Mapping[str, Sequence[str]] = {
    "ablation": (RESULTS, GAPS), "detection": (DETECTION,), "regimes": (RESULTS, DETECTION),
}  # fmt: skip
"""Table -> what is made of its rows, where that is more or other than results."""
LOST_ORDER = (
    "The paper's rows without its first, second and third term (which of them is the gap, the shift and the hard term is lost): "
    + "; ".join(
        f"{data} {', '.join(f'{value:.2f}' for value in values)}" for data, values in cited.WITHOUT_A_TERM.items()
    )
    + "."
)


@dataclass(frozen=True)
class PlannedRuns:
    """The runs of one call of `reproduce`.

    Attributes:
        base: parameters that all rows have in common.
        preset: name of the data set whose tables they are.
        runs: the runs, newest first, in any status.
    """

    base: Mapping[str, Any]
    preset: str
    runs: Sequence[TrainedRun]

    @property
    def seeds(self) -> list[int]:
        """All seeds that occur."""
        return sorted({run.seed for run in self.runs if run.seed is not None})


def planned_runs(collection: Collection) -> list[PlannedRuns]:
    """Return the runs that `reproduce` has made, by data set."""
    found: dict[tuple[str, str], list[TrainedRun]] = {}
    for run in collection.runs:
        dataset = run.logged.get("config/dataset")
        if run.planned_as and dataset is not None:
            found.setdefault((dataset, run.logged.get("config/preset", AUTO)), []).append(run)
    return [
        PlannedRuns({"dataset": dataset, "preset": preset}, preset_of(dataset, preset), runs)
        for (dataset, preset), runs in found.items()
    ]


def planned_sections(planned: PlannedRuns, split: str, suffix: str = "") -> list[Section]:
    """Return the tables of which at least one row was trained.

    Args:
        planned: the runs.
        split: split of the results.
        suffix: of the tables' names, to tell them from those of another data set.
    """
    sections = [_section(table, planned, split, suffix) for table in tables_of(planned.preset)]
    return [section for section in sections if any(row.group or row.failed for row in section.rows)]


def _section(table: Table, planned: PlannedRuns, split: str, suffix: str) -> Section:
    groups = [_group_of(row, planned, split) for row in table.rows]
    bases = {
        row.group: found for row, found in zip(table.rows, groups, strict=True) if row.name == table.baseline and found
    }
    rows = [
        Row(
            labels=[row.group, row.name] if table.name in GROUPS else [row.name],
            group=found,
            base=None if row.name == table.baseline else bases.get(row.group),
            is_base=row.name == table.baseline,
            wanted=len(planned.seeds),
            failed=_failed(table, row, planned, found),
            cited=_cited(table, row),
        )
        for row, found in zip(table.rows, groups, strict=True)
    ]
    return Section(
        name=f"{table.name}{suffix}",
        title=f"{table.title}, {_data_name(planned)}",
        labels=[GROUPS[table.name], "row"] if table.name in GROUPS else ["row"],
        rows=rows,
        notes=[
            f"Baseline: the row {table.baseline}{' of the same ' + GROUPS[table.name] if table.name in GROUPS else ''}.",
            *([LOST_ORDER] if table.name == "ablation" else []),
        ],
        prefix=f"{table.title}, {_data_name(planned)}: ",
        shows=SHOWS.get(table.name, (RESULTS,)),
    )


def _data_name(planned: PlannedRuns) -> str:
    return planned.runs[0].data or planned.preset


def _group_of(row: PlannedRow, planned: PlannedRuns, split: str) -> Group | None:
    """Return the finished runs with the settings of a row, whoever made them; None if there are none."""
    config = configuration(row, planned.base, planned.seeds[0])
    wanted = settings_of(config, after_warmup=row.after_warmup).items()
    by_seed: dict[int, list[TrainedRun]] = {}
    repeated = 0
    for run in planned.runs:
        if run.status != "FINISHED" or run.seed is None or f"{split}/accuracy" not in run.metrics:
            continue
        if not wanted <= run.logged.items():
            continue
        repeated += run.seed in by_seed
        by_seed.setdefault(run.seed, [run])
    label = f"{row.group}, {row.name}" if row.group else row.name
    return Group({"method": label}, by_seed, repeated) if by_seed else None


def _failed(table: Table, row: PlannedRow, planned: PlannedRuns, found: Group | None) -> list[TrainedRun]:
    """Return the newest run of each seed that has failed and was not repeated with success."""
    place = str(Place(table.name, row.group, row.name))
    done = set() if found is None else set(found.runs)
    failed: dict[int, TrainedRun] = {}
    for run in planned.runs:
        if (
            run.status == "FAILED"
            and run.seed is not None
            and run.seed not in done
            and place in run.planned_as.split("; ")
        ):
            failed.setdefault(run.seed, run)
    return [run for _, run in sorted(failed.items())]


def _cited(table: Table, row: PlannedRow) -> Mapping[str, CitedNumber] | None:
    if table.name == "methods":
        return cited.METHODS.get(row.name)
    if table.name == "ablation":
        return {
            "full": cited.FULL, "posterior weighting none": cited.WITHOUT_POSTERIOR,
            "joint": cited.METHODS["concat"],
        }.get(row.name)  # fmt: skip
    if table.name == "optimizer":
        state = {"reset": "reset", "same": "keep"}.get(row.name, "")
        return cited.OPTIMIZERS.get((row.group.lower(), state))
    return None
