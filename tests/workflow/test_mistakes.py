"""Mistakes on the command line: one line that says what to do, exit status 1, no run."""

import pytest

from tests.helpers.commands import do, runs

pytestmark = pytest.mark.usefixtures("signals")


@pytest.mark.parametrize(
    ("entry_point", "words", "told"),
    [
        ("main", "learning_rate=abc", "learning_rate=abc is not a number"),
        ("warmup", "anneal=foo", "unknown parameter `anneal`"),
        ("adaptive", "anneal=foo", "anneal=foo is not known"),
        ("adaptive", "warmup_run=deadbeef", "warmup_run=deadbeef: no such run"),
        (
            "adaptive",
            "preset=quick seed=77",
            "no finished warm-up run with these settings, this code and 1 CPU thread(s); train one with: mlflow run",
        ),
        ("evaluate", "", "run_id is missing"),
        ("main", "dataset=nowhere/manifest.csv", "manifest.csv"),
        (
            "train",
            "preset=quick method=ogm method_options=alfa=1",
            "ogm has no option 'alfa' (did you mean alpha?); it has: alpha, start_epoch",
        ),
        ("train", "preset=quick method=omg", "method=omg is not known (did you mean opm?); give one of concat"),
    ],
)
def test_bad_values_end_with_one_line_and_leave_no_run(store, capsys, entry_point, words, told):
    assert told in error_of(capsys, entry_point, words)
    assert not runs()


def test_what_only_the_network_can_refuse_leaves_a_failed_run(store, capsys):
    told = error_of(capsys, "train", "preset=quick method=mmcosine fusion=film")
    assert "mmcosine brings its own head; leave fusion=concat" in told
    assert [run.info.status for run in runs()] == ["FAILED"]


def error_of(capsys, entry_point, words):
    assert do(entry_point, words) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mm-balance: error:")]
    return error
