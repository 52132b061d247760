"""`report` on runs that were really trained: its files, its run, what it says of bad requests."""

import csv

import pytest

from tests.helpers.commands import QUICK, artifacts, do, fetch, newest, runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(shared_store):
    """A run of the control, which was not tested, and one of the whole recipe, which was."""
    assert do("train", f"{QUICK} method=concat_unimodal seed=0") == 0
    assert do("main", f"{QUICK} seed=0") == 0
    return shared_store


def test_any_runs_give_a_page_tables_for_papers_and_figures(trained, tmp_path):
    assert do("report", "split=val", out=tmp_path / "paper") == 0
    run = newest(stage="report")
    assert run.info.status == "FINISHED"
    assert {"report.html", "report.md", "tables", "figures"} <= artifacts(run)
    assert "audio is ahead on validation in" in run.data.tags["mlflow.note.content"]
    with (tmp_path / "paper/tables/results.csv").open(newline="") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert set(lines) == {"concat_unimodal", "gap_mixture"}
    control, ours = newest(stage="train"), newest(stage="main")
    assert lines["gap_mixture"]["runs"] == ours.info.run_id
    assert lines["gap_mixture"]["baseline"] == control.info.run_id
    difference = ours.data.metrics["val/accuracy"] - control.data.metrics["val/accuracy"]
    assert float(lines["gap_mixture"]["val/accuracy difference mean"]) == pytest.approx(difference)
    figures = {path.name for path in (tmp_path / "paper/figures").iterdir()}
    for figure in ("differences_results", "gap_mixture_digits_gap_mixture", "unimodal_accuracy_digits_gap_mixture"):
        assert {f"{figure}{suffix}" for suffix in (".svg", ".pdf", ".png")} <= figures
    page = fetch(run, "report.html").read_text("utf-8")
    assert page.count("data:image/svg+xml;base64,") == len([name for name in figures if name.endswith(".svg")])


def test_on_test_only_tested_runs_are_rows_and_the_others_are_counted(trained, capsys):
    assert do("report") == 0
    printed = capsys.readouterr().out
    assert "1 run with results on test" in printed
    assert "1 finished run without results on test" in printed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("experiment=nowhere", "there is no experiment 'nowhere'"),
        ("group_by=metod", "no run has a setting 'metod'"),
        ("baseline=concat", "is not of the form setting=value"),
        ("baseline=method=nothing", "no row can be compared"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_leaves_no_run(trained, capsys, words, complaint):
    before = len(runs())
    assert do("report", words) != 0
    said = capsys.readouterr().err
    assert complaint in said
    assert "Traceback" not in said
    assert len(runs()) == before


def test_a_store_without_training_runs_says_so(store, capsys):
    assert do("report") != 0
    assert "has no training run" in capsys.readouterr().err
