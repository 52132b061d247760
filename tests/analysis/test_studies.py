"""The table of the four studies: what it says, and that the page quotes it whole."""

from pathlib import Path

import pytest

from analysis.studies import best_and_start, page, study_arguments

ROOT = Path(__file__).parents[2]
METRICS = {
    "study/trials_complete": 9.0,
    "study/trials_pruned": 30.0,
    "study/trials_failed": 1.0,
    "study/epochs": 211.0,
    "study/epochs_share": 0.2931,
    "study/minutes": 12.91,
}
TOLD = {
    "rows": [
        {"seed": 1, "best": 0.9, "start": 0.8, "difference": 0.1},
        {"seed": 2, "best": 0.7, "start": 0.8, "difference": -0.1},
        {"seed": 3, "best": 0.95, "start": 0.8, "difference": 0.15},
    ],
    "mean": 0.05,
    "std": 0.1322876,
    "interval": [-0.2786, 0.3786],
    "better_on": 2,
    "seeds": 3,
}
ROW = {"search": "weights", "best": 0.982, "start": 0.976, "parameters": {"gap_weight": 1.05}, "metrics": METRICS}


def cells(confirmation):
    line = page([{**ROW, "confirmation": confirmation}])[-2]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_of_the_table():
    assert cells(TOLD) == [
        "`weights`",
        "validation, last epoch",
        "9 / 30 / 1",
        "211 = 29 %",
        "12.9",
        "97.6",
        "98.2",
        "85.0",
        "80.0",
        "+5.00 ± 13.23 [-27.86, +37.86] (better on 2 of 3)",
        "`gap_weight=1.05`",
    ]


def test_a_study_whose_winner_is_the_start_has_nothing_to_confirm():
    assert cells({})[7:10] == ["", "", ""]


def failed(seeds):
    """The confirmation as ``mm_balance.study.confirm.compare`` gives it where the best trial's training failed on these seeds."""
    rows = [{**row, "best": None, "difference": None} if row["seed"] in seeds else dict(row) for row in TOLD["rows"]]
    complete = [row["difference"] for row in rows if row["difference"] is not None]
    told = {"rows": rows, "seeds": len(complete), "better_on": sum(value > 0 for value in complete)}
    return told | ({"mean": 0.125, "std": 0.0354, "interval": [-0.1927, 0.4427]} if len(complete) > 1 else {})


def test_a_confirmation_that_failed_on_one_seed_is_that_of_the_others():
    assert cells(failed([2]))[7:10] == [
        "92.5 (2 of 3)",  # 0.9 and 0.95
        "80.0 (2 of 3)",
        "+12.50 ± 3.54 [-19.27, +44.27] (better on 2 of 2)",
    ]


def test_a_confirmation_with_fewer_than_two_complete_seeds_compares_nothing():
    assert cells(failed([1, 2]))[7:10] == ["95.0 (1 of 3)", "80.0 (1 of 3)", "1 of 3 seeds complete: too few"]
    assert cells(failed([1, 2, 3]))[7:10] == ["failed", "failed", "0 of 3 seeds complete: too few"]


TRIALS = [
    {"state": "PRUNED", "val/accuracy": 0.61, "gap_weight": 0.5, "origin": "configured"},
    {"state": "FAIL", "val/accuracy": None, "gap_weight": 0.7, "origin": ""},
    {"state": "COMPLETE", "val/accuracy": 0.97, "gap_weight": 1.05, "origin": ""},
    {"state": "COMPLETE", "val/accuracy": 0.95, "gap_weight": 0.5, "origin": "configured"},
]


def found(trials):
    return best_and_start(trials, "val/accuracy", ["gap_weight"])


def test_the_start_is_the_configured_trial_that_is_complete():
    assert found(TRIALS) == {"best": 0.97, "start": 0.95, "parameters": {"gap_weight": 1.05}}


@pytest.mark.parametrize("state", ["PRUNED", "FAIL"])
def test_a_start_that_is_not_complete_has_no_number(state):
    """Neither the value of an epoch in the middle, nor a crash, nor another trial's."""
    row = found([{**TRIALS[0], "state": state, "val/accuracy": 0.61 if state == "PRUNED" else None}, *TRIALS[1:3]])
    assert row["start"] is None
    line = page([{**ROW, **row, "confirmation": {}}])[-2]
    assert [cell.strip() for cell in line.strip("|").split("|")][5:7] == ["not complete", "97.0"]


def test_a_study_without_a_complete_trial_has_a_row_all_the_same():
    row = found(TRIALS[:2])
    assert row == {"best": None, "start": None, "parameters": {}}
    assert page([{**ROW, **row, "confirmation": {}}])[-2].count("not complete") == 2


def test_every_study_is_one_ordinary_command():
    words = study_arguments("form", 40, 5, "auto", 2)
    assert words[words.index("--search") + 1] == "form"
    assert words[words.index("--confirm_seeds") + 1] == "5"


@pytest.mark.parametrize("name", ["anneal", "weights", "anneal_and_weights", "form"])
def test_the_page_quotes_the_table_as_it_was_written(name):
    table = (ROOT / "docs" / "results" / "studies.md").read_text("utf-8")
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` ")]
    assert row in (ROOT / "docs" / "studies.md").read_text("utf-8")
