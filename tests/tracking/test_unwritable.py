"""A full or read-only disk: one line that says what cannot be written, where, and how to go on; nothing is lost."""

import errno
import resource
from contextlib import contextmanager

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mm_balance.commands.guard import run_guarded
from mm_balance.errors import Unwritable, why_unwritable
from mm_balance.tracking.database import DatabaseClient
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.outage.connection import means_away
from mm_balance.tracking.unwritable import writing
from tests.helpers.commands import QUICK, do


@contextmanager
def no_file_above(bytes_: int):
    """A disk that takes only small files; Python turns the limit into an error as of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_artifact_that_does_not_fit_is_one_line(store):
    run = open_run("full")
    with no_file_above(1000), pytest.raises(Unwritable) as caught:
        run.log_bytes(b"x" * 5000, "images/picture.png")
    line = str(caught.value)
    assert "artifact images/picture.png" in line
    assert "too large" in line
    assert "\n" not in line


def test_a_database_that_does_not_fit_is_one_line_and_keeps_what_it_has(store, capfd):
    run = open_run("full")
    run.set_tags({"before": "kept"})
    tags = {f"tag {number}": "x" * 4000 for number in range(100)}
    with no_file_above((store / "mlflow.db").stat().st_size), pytest.raises(Unwritable) as caught:
        run.set_tags(tags)
    line = str(caught.value)
    assert f"run {run.run_id}" in line
    assert "mlflow.db" in line
    assert "\n" not in line
    assert "Traceback" not in capfd.readouterr().err  # MLflow logs one for every error of a database
    assert run.read().data.tags["before"] == "kept"
    run.set_tags({"after": "writes again"})
    assert run.read().data.tags["after"] == "writes again"


def test_a_read_only_database_is_one_line(store):
    mlflow.set_tracking_uri(f"sqlite:///file:{store}/mlflow.db?mode=ro&uri=true")
    try:
        with pytest.raises(Unwritable, match=r"a new run cannot be written to .*readonly database"):
            open_run("nowhere")
    finally:
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")


@pytest.mark.slow
def test_training_that_meets_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(store, monkeypatch, capsys):
    sent = DatabaseClient.log_batch

    def full(self, run_id, metrics=(), **more):
        if any(item.step >= 2 for item in metrics):
            raise MlflowException(
                "(sqlite3.OperationalError) database or disk is full\n(Background on this error: ...)"
            )
        sent(self, run_id, metrics=metrics, **more)

    monkeypatch.setattr(DatabaseClient, "log_batch", full)
    assert do("warmup", f"{QUICK} warmup_epochs=3") == 1
    said = capsys.readouterr().err
    (line,) = [item for item in said.splitlines() if "error" in item]
    assert "database or disk is full" in line
    assert "Traceback" not in said
    (run,) = MlflowClient().search_runs(["0"])
    assert f"-e warmup -P resume_run={run.info.run_id}" in line
    assert run.info.status == "FAILED"
    assert "disk is full" in run.data.tags["mm.error"]
    monkeypatch.setattr(DatabaseClient, "log_batch", sent)
    assert do("warmup", resume_run=run.info.run_id) == 0
    points = MlflowClient().get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in points] == [1, 2, 3]


def test_a_file_that_a_command_cannot_write_is_one_line(tmp_path, capsys):
    def body(stop):
        with no_file_above(10):
            (tmp_path / "report.html").write_text("x" * 10_000)

    assert run_guarded(body) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "cannot be written" in said


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EINVAL, errno.ECONNREFUSED])
def test_other_errors_are_no_full_disks(code):
    error = OSError(code, "other")
    assert why_unwritable(error) == ""
    with pytest.raises(OSError, match="other"), writing("a file"):
        raise error


def test_a_full_disk_that_is_shared_with_a_server_is_waited_for_but_a_forbidden_one_is_not():
    assert means_away(OSError(errno.ENOSPC, "No space left on device"))
    assert not means_away(PermissionError(errno.EACCES, "Permission denied"))
