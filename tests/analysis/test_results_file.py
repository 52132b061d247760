"""Finished runs in a file beside the table: a command goes on from it where the MLflow store is gone."""

import pytest

from analysis.results_file import ResultsFile
from mm_balance.errors import UserError

COLUMNS = {"run": str, "val_accuracy": float, "epoch": int}
KEY = ("concat", 3, "abc")
RUN = "12e45678901234567890123456789012"
"""A run's id that would also be a number."""


def test_a_line_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "results" / "runs.csv"
    ResultsFile(path, COLUMNS).add(KEY, {"run": RUN, "val_accuracy": 0.1 + 0.2, "epoch": 18})
    ResultsFile(path, COLUMNS).add(("tuning, alpha=1", 0, "def"), {"val_accuracy": 0.5})
    results = ResultsFile(path, COLUMNS)
    assert results.keys() == {KEY, ("tuning, alpha=1", 0, "def")}
    assert results[KEY] == {"run": RUN, "val_accuracy": 0.1 + 0.2, "epoch": 18}
    assert results["tuning, alpha=1", 0, "def"] == {"val_accuracy": 0.5}
    assert ("concat", 3, "other settings") not in results


def test_a_line_that_was_cut_off_counts_as_not_finished(tmp_path):
    path = tmp_path / "runs.csv"
    results = ResultsFile(path, COLUMNS)
    results.add(KEY, {"val_accuracy": 0.5})
    results.add(("ogm", 3, "abc"), {"val_accuracy": 0.25})
    path.write_text(path.read_text()[:-4])
    again = ResultsFile(path, COLUMNS)
    assert again.keys() == {KEY}
    again.add(("ogm", 3, "abc"), {"val_accuracy": 0.75})
    assert ResultsFile(path, COLUMNS)["ogm", 3, "abc"] == {"val_accuracy": 0.75}


def test_lines_of_other_settings_can_be_dropped(tmp_path):
    path = tmp_path / "runs.csv"
    results = ResultsFile(path, COLUMNS)
    for row in ("ogm", "concat"):
        for settings in ("old", "new"):
            results.add((row, 0, settings), {"val_accuracy": 0.5})
    results.keep([("ogm", 0, "new"), ("concat", 0, "new")])
    assert path.read_text() == "row,seed,settings,run,val_accuracy,epoch\nconcat,0,new,,0.5,\nogm,0,new,,0.5,\n"
    assert results.keys() == ResultsFile(path, COLUMNS).keys() == {("ogm", 0, "new"), ("concat", 0, "new")}


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    results = ResultsFile(path, COLUMNS)
    with pytest.raises(ValueError, match=r"no columns \['accuracy'\]"):
        results.add(KEY, {"accuracy": 0.5})
    results.add(KEY, {"val_accuracy": 0.5})
    with pytest.raises(UserError, match=r"runs\.csv has the columns .* move the file away"):
        ResultsFile(path, {"val_accuracy": float})
