"""Tables whose rows are known beforehand: runs are found by their settings, missing and failed ones are rows that say so."""

import pytest

from mm_balance.report.planned import planned_runs, planned_sections
from mm_balance.report.runs import collect
from mm_balance.reproduction.plan import base_settings, configuration, settings_of
from mm_balance.reproduction.tables import tables_of
from mm_balance.tracking.query import RunRecord

SEEDS = (0, 1)


def run_of(table, row, seed, *, status="FINISHED", **tags):
    """A run as `reproduce` makes one for a row, with its accuracy on test."""
    config = configuration(row, base_settings("quick"), seed)
    logged = settings_of(config, after_warmup=row.after_warmup)
    place = f"{table.name}: {f'{row.group}: ' if row.group else ''}{row.name}"
    return RunRecord(
        run_id=f"{table.name}{row.name}{seed}",
        name="",
        status=status,
        metrics={"test/accuracy": 0.5 + 0.1 * seed},
        parameters={"config/preset": "quick"} | {name: text for name, text in logged.items() if name != "mm.method"},
        tags={
            "mm.stage": "train", "mm.dataset": "digits", "mm.seed": str(seed), "mm.method": logged["mm.method"], "mm.row": place,
            "mm.job": "x", **{name.replace("_", "."): text for name, text in tags.items()},
        },
    )  # fmt: skip


def sections_of(records):
    (planned,) = planned_runs(collect(records))
    return {section.name: section for section in planned_sections(planned, "test")}


@pytest.fixture(scope="module")
def tables():
    return {table.name: table for table in tables_of("quick")}


def rows_of(table):
    return {(row.group, row.name): row for row in table.rows}


def test_rows_have_their_runs_and_are_compared_within_their_group(tables):
    table = tables["optimizer"]
    records = [run_of(table, row, seed) for row in table.rows for seed in SEEDS]
    section = sections_of(records)["optimizer"]
    assert section.labels == ["optimizer", "row"]
    rows = {tuple(row.labels): row for row in section.rows}
    assert all(row.number == 2 and not row.incomplete for row in rows.values())
    assert rows["SGD", "same"].base is rows["SGD", "concat_unimodal"].group
    assert rows["SGD", "concat_unimodal"].base is None
    assert rows["SGD", "reset"].cited["paper, CREMA-D"].percent == 80.65
    assert rows["SGD", "same"].cited["paper, AVE"].percent == 67.91


def test_a_run_counts_in_every_table_that_has_its_settings(tables):
    ablation = rows_of(tables["ablation"])
    record = run_of(tables["ablation"], ablation["", "full"], 0)
    sections = sections_of([record])
    for name, label in (("ablation", ["full"]), ("methods", ["gap_mixture"]), ("optimizer", ["SGD", "reset"])):
        row = next(row for row in sections[name].rows if row.labels == label)
        assert [run.run_id for run in row.group.all_runs] == [record.run_id]


def test_what_is_missing_and_what_failed_stays_a_row(tables):
    table = tables["ablation"]
    rows = rows_of(table)
    records = [
        run_of(table, rows["", "full"], 0),
        run_of(table, rows["", "full"], 1),
        run_of(table, rows["", "without gap term"], 1, status="FAILED", mm_error="diverged in epoch 2"),
    ]
    found = {row.labels[0]: row for row in sections_of(records)["ablation"].rows}
    assert len(found) == len(table.rows)
    assert not found["full"].incomplete
    assert [run.error for run in found["without gap term"].failed] == ["diverged in epoch 2"]
    assert found["concat_unimodal"].group is None
    assert (found["concat_unimodal"].number, found["concat_unimodal"].wanted) == (0, 2)


def test_a_failure_that_was_repeated_with_success_is_none(tables):
    table = tables["ablation"]
    row = rows_of(table)["", "full"]
    records = [run_of(table, row, 0), run_of(table, row, 0, status="FAILED", mm_error="out of memory")]
    found = {row.labels[0]: row for row in sections_of(records)["ablation"].rows}
    assert not found["full"].failed


def test_runs_that_reproduce_did_not_make_are_in_none_of_its_tables(tables):
    table = tables["ablation"]
    record = run_of(table, table.rows[0], 0)
    del record.tags["mm.job"]
    assert planned_runs(collect([record])) == []
