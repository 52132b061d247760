"""Mistakes on the command line of `study` and `worker`: one line that says what to do, and no run."""

import pytest

from mm_balance.errors import UserError
from mm_balance.study import command
from mm_balance.study.handle import find_study
from mm_balance.tracking import presence
from mm_balance.workflow import duration
from tests.helpers.commands import call, runs, spelled
from tests.helpers.outside import write_module
from tests.helpers.studies import start_without_workers

pytestmark = pytest.mark.usefixtures("signals")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--search", "weights", "--space", "learning_rate=0.01:0.1"],
            "learning_rate cannot be searched: it belongs to the warm-up",
        ),
        (["--space", "gap_wieght=0:1"], "gap_weight"),
        (["--objective", "test/accuracy"], "nothing is ever chosen on test data"),
        (["--devices", "99"], "CUDA device(s)"),
        (["--storage", "file.db"], "give a path ending in .journal"),
        (["--storage", "postgresql+psycopg://user:secret@127.0.0.1:1/none"], "cannot be opened"),
        (["--storage", "grpc://127.0.0.1:port"], "write grpc://host:port"),
        (["--study_name", "a b"], "use letters, digits"),
        (["--method", "concat", "--search", "method"], "declares no search ranges"),
        (["--trials", "0"], "trials"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_run(store, capsys, words, told):
    assert call("study", ["--preset", "quick", *words]) == 1
    printed = capsys.readouterr().err
    error = printed.strip().splitlines()[-1]
    assert error.startswith("mm-balance: error:")
    assert told in error
    assert "secret" not in printed
    assert not runs()


def test_a_proxy_that_does_not_answer_is_told_of(store, capsys, monkeypatch):
    pytest.importorskip("grpc")
    monkeypatch.setattr("mm_balance.study.storage.PROXY_SECONDS", 1)
    assert call("study", ["--preset", "quick", "--storage", "grpc://127.0.0.1:9"]) == 1
    assert "no proxy answers there within 1 s" in capsys.readouterr().err
    assert not runs()


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--study_name", "nowhere"], "there is no study nowhere"), ([], "study_name is missing")],
)
def test_a_worker_without_a_study_is_told_how_to_make_one(store, capsys, words, told):
    assert call("worker", words) == 1
    assert told in capsys.readouterr().err
    assert not runs()


SMALL = "preset=quick train_fraction=0.05 method=concat search=space space=learning_rate=0.01:0.1:log trials=1"


def test_studies_of_one_name_that_begin_at_once_are_one(store):
    """Of two commands one creates it, and the other joins it; the first to have come ends its run."""
    both = [start_without_workers(store, "study", spelled(f"{SMALL} study_name=shared")) for _ in range(2)]
    for process in both:
        assert process.wait(120) == 0, process.said()
    (parent,) = runs()
    assert parent.info.status == "FINISHED"
    assert find_study("shared", "auto").parent.run_id == parent.info.run_id
    assert all(f"run:  {parent.info.run_id}\n" in process.said() for process in both)
    joined = [process.said() for process in both if "both share its trials and its run" in process.said()]
    assert len(joined) == 1
    assert presence.marked_runs() == []


SOURCE = """
from mm_balance.testing import tiny_data

def build():
    return tiny_data(kind="vector")

build.settings = {"warmup_epochs": 6, "adaptive_epochs": 12, "epochs": 18, "batch_size": 8}
"""


@pytest.mark.parametrize(
    ("given", "hours", "told", "untold"),
    [
        # 40 samples x 4/3 x 30 s: each epoch takes 1600 s
        ({}, "at most about 109.3", "40 trials of 12 epochs, 2 at a time, warm-up of 6, 30.00 s", "epochs=12"),
        ({"pruner": "none", "workers": 1}, "about 216.0", "40 trials of 12 epochs, 1 at a time", "-P epochs"),
        (
            {"confirm_seeds": 3},
            "at most about 130.7",
            "warm-up of 6, 3 seeds to confirm the best",
            "-P adaptive_epochs",
        ),
        (
            {"method": "ogm_ge", "search": "method"},
            "at most about 160.0",
            "40 trials of 18 epochs, 2",
            "-P warmup_epochs",
        ),
        (
            {"method": "concat", "search": "optimizer"},
            "at most about 160.0",
            "-P learning_rate_schedule=cosine",
            "-P batch_size=",
        ),
    ],
)
def test_a_long_study_is_announced_with_all_that_it_trains(
    store, import_folder, monkeypatch, capsys, given, hours, told, untold
):
    write_module(import_folder, "own_data", SOURCE)
    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 30.0)
    monkeypatch.setattr(command, "own_cores", lambda: [0, 1])
    launch = command._plan({"dataset": "own_data:build", "devices": "cpu", **given}, lambda: False)
    command._warn_if_long(launch)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"warning: {hours} hours on this CPU (40 samples, " in line
    assert told in line
    assert untold not in line
    assert line.endswith("; fewer trials: -P trials=NUMBER")


def test_a_study_is_announced_before_its_run_begins(store, import_folder, monkeypatch, capsys):
    write_module(import_folder, "own_data", SOURCE)

    def announced(*given, **words):
        assert not runs()
        raise UserError("announced")

    monkeypatch.setattr(command, "warn_if_long", announced)
    assert call("study", ["--dataset", "own_data:build", "--devices", "cpu", "--study_name", "long"]) == 1
    assert "announced" in capsys.readouterr().err
