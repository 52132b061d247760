"""The table of the four studies: what it says, and that the page quotes it whole."""

from pathlib import Path

import pytest

from analysis.studies import page, study_words

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
    assert cells({})[6:9] == ["", "", ""]


def test_every_study_is_one_ordinary_command():
    words = study_words("form", 40, 5, "auto", 2)
    assert words[words.index("--search") + 1] == "form"
    assert words[words.index("--confirm_seeds") + 1] == "5"


@pytest.mark.parametrize("name", ["anneal", "weights", "anneal_and_weights", "form"])
def test_the_page_quotes_the_table_as_it_was_written(name):
    table = (ROOT / "docs" / "results" / "studies.md").read_text("utf-8")
    (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` ")]
    assert row in (ROOT / "docs" / "studies.md").read_text("utf-8")
