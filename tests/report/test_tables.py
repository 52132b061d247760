"""What the cells of a report's tables say."""

import csv
import io
import math
import re

import pytest

from mm_balance.report.cited import METHODS, CitedNumber
from mm_balance.report.groups import default_baseline, group
from mm_balance.report.runs import collect
from mm_balance.report.table import Cell, Column, ReportTable, csv_text, latex, markdown
from mm_balance.report.tables import (
    Row,
    accuracies,
    detection_measures,
    measure_table,
    modalities_of,
    results_table,
    rows_of_groups,
)
from tests.report.examples import example_records, record

KEYS = ["corruption", "method"]


def example_table(**more):
    runs = collect(example_records()).with_results("test")
    groups = group(runs, KEYS)
    rows = rows_of_groups(groups, default_baseline(groups))
    measures = accuracies("test", modalities_of(runs, "test"))
    return results_table("results", "Accuracy on test", KEYS, more.get("rows", rows), measures, ["A note."])


def texts(table, number):
    return dict(
        zip([column.title for column in table.columns], [cell.text for cell in table.rows[number]], strict=True)
    )


def test_cells_are_mean_deviation_paired_difference_interval_and_adjusted_p():
    row = texts(example_table(), 1)
    assert (row["corruption"], row["method"]) == ("0.0", "gap_mixture")
    assert row["n"] == "3"
    assert row["fused (%)"] == "92.3 ± 1.2"
    # Differences 1, 1 and 2 points: mean 1.33, standard error 1/3, t(2, 97.5 %) = 4.303.
    assert row["fused - baseline"] == "+1.3 [-0.1, +2.8]"
    # p = 0.0572 (t = 4), and the row at 40 % (differences 0, -2, 3) is a second test.
    assert row["p (Holm)"] == "0.114"
    assert texts(example_table(), 0)["fused - baseline"] == "baseline"


def test_a_row_without_a_difference_says_why():
    groups = group(collect(example_records()).with_results("test"), KEYS)
    others = group(collect([record("gce", 9, metrics={"test/accuracy": 0.5})]).runs, KEYS)
    rows = [Row(["0.0", "gce"], others[0]), Row(["0.0", "gce"], others[0], groups[0]), Row(["0.0", "mla"], None)]
    rows.append(rows_of_groups(groups, default_baseline(groups))[1])
    table = example_table(rows=rows)
    assert [texts(table, number)["fused - baseline"] for number in range(3)] == ["no baseline", "no common seed", ""]


def test_only_the_first_measure_is_a_family_of_tests():
    table = example_table()
    strong = {cell.text for row in table.rows for cell in row if cell.strong}
    assert strong == set()
    visual = texts(table, 1)["visual - baseline"]
    assert visual.startswith("+9.0 [")


def test_a_difference_that_survives_the_adjustment_is_strong_with_its_p():
    control = {seed: (0.80 + seed / 100, 0.5, 0.5) for seed in (1, 2, 3)}
    ours = {seed: (fused + 0.05 + seed / 1000, 0.5, 0.5) for seed, (fused, _, _) in control.items()}
    records = example_records({("concat_unimodal", "0.0"): control, ("gap_mixture", "0.0"): ours})
    groups = group(collect(records).with_results("test"), KEYS)
    row = example_table(rows=rows_of_groups(groups, default_baseline(groups))).rows[1]
    # Differences 5.1, 5.2, 5.3: t = 5.2 / (0.1 / sqrt(3)) = 90.07, p = 0.00012.
    assert [cell.text for cell in row if cell.strong] == ["+5.2 [+5.0, +5.4]", "< 0.001"]


def test_numbers_have_full_precision_every_interval_and_every_run():
    lines = list(csv.DictReader(io.StringIO(csv_text(example_table()))))
    line = lines[1]
    assert float(line["test/accuracy"]) == pytest.approx(0.92333333333)
    assert float(line["test/accuracy difference mean"]) == pytest.approx(0.04 / 3)
    assert float(line["test/accuracy difference low"]) == pytest.approx(0.04 / 3 - 4.302653 * 0.01 / 3, abs=1e-6)
    assert line["seeds"] == "1 2 3"
    assert len(line["runs"].split()) == len(line["baseline"].split()) == 3


def test_missing_runs_are_visible_and_failed_ones_say_why():
    rows = rows_of_groups(group(collect(example_records()).with_results("test"), KEYS), {})
    failed = collect([record("mla", 2, status="FAILED", tags={"mm.error": "diverged in epoch 3"})]).failed()
    rows = [
        Row(rows[0].labels, rows[0].group, wanted=5),
        Row(["0.0", "mla"], None, wanted=5, failed=failed),
        Row(["0.0", "ogm"], None, wanted=5),
    ]
    table = example_table(rows=rows)
    assert [texts(table, number)["n"] for number in range(3)] == ["3 of 5", "0 of 5", "0 of 5"]
    assert [texts(table, number)["fused (%)"] for number in (1, 2)] == ["failed", "missing"]
    assert table.incomplete == {0, 1, 2}
    assert "0.0, mla, seed 2: diverged in epoch 3." in table.notes


def test_branches_that_see_each_other_are_not_passed_off_as_modalities():
    run = record("greedy", metrics={"test/accuracy": 0.9}, tags={"mm.unimodal": "branches"})
    (found,) = group(collect([run]).runs, ["method"])
    notes = example_table(rows=[Row(["0.0", "greedy"], found)]).notes
    assert any(note.startswith("Not of one modality alone") and "greedy" in note for note in notes)


def test_cited_numbers_stand_apart_with_their_binomial_error():
    found = METHODS["gap_mixture"]["paper, CREMA-D"]
    assert found.error == pytest.approx(100 * math.sqrt(0.8065 * 0.1935 / 744))
    rows = [Row(["0.0", "gap_mixture"], None, cited={"paper, CREMA-D": found})]
    table = example_table(rows=rows)
    assert texts(table, 0)["paper, CREMA-D"] == "80.65 ± 1.4"
    assert any("single runs" in note for note in table.notes)


def test_the_papers_best_scores_are_whole_numbers_of_test_clips():
    for source, correct, clips in (("paper, CREMA-D", 600, 744), ("paper, AVE", 285, 402)):
        assert METHODS["gap_mixture"][source] == CitedNumber(round(100 * correct / clips, 2), clips)


def test_a_table_without_any_of_its_measures_does_not_exist():
    rows = rows_of_groups(group(collect(example_records()).with_results("test"), KEYS), {})
    assert measure_table("detection", "x", KEYS, rows, detection_measures(["audio", "visual"]), []) is None


def simple_table(text="a|b", strong=False):
    return ReportTable("some_table", "50 % & more", [Column("x_y", "left"), Column("n"), Column("runs", web_only=True)],
                       [[Cell(text, strong), Cell("-1.5 ± 0.2"), Cell("abc")]], [{"x": 1}], ["note_1 <b>"])  # fmt: skip


def test_markdown_cells_cannot_break_the_table_or_become_markup():
    lines = markdown(simple_table("a|b <script> *x* _y_")).splitlines()
    assert lines[4] == r"| a\|b &lt;script&gt; \*x\* \_y\_ | -1.5 ± 0.2 | abc |"
    assert lines[-1] == r"- note\_1 &lt;b&gt;"


def test_latex_escapes_every_special_character_and_leaves_run_ids_out():
    text = latex(simple_table("a_b & 50 % #1 $x$ {y} ~ ^ \\ <", strong=True))
    assert (
        r"\textbf{a\_b \& 50 \% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} $<$} & " in text
    )
    assert r" & $-$1.5 $\pm$ 0.2 \\" in text
    assert "abc" not in text
    assert r"\toprule" in text
    assert r"\caption{50 \% \& more}" in text
    assert r"\label{tab:some-table}" in text
    assert text.count("{") == text.count("}") + text.count(r"\{") - text.count(r"\}")


def test_two_columns_of_the_same_title_stay_two_in_latex():
    table = ReportTable("t", "t", [Column("n"), Column("n")], [[Cell("1"), Cell("2")]])
    assert re.search(r"^1 & 2 \\\\$", latex(table), re.M)
