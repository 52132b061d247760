"""The database of a new store: made once, whole, whoever else makes it or is killed meanwhile."""

import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from mm_balance.errors import UserError
from mm_balance.tracking import database as database_module
from mm_balance.tracking.database import database_file, make_database
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.store import new_client
from tests.helpers.faults import recorded
from tests.helpers.processes import Forked, environment

AT_ONCE = 4


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A folder without a store, and the file where it will be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path / "mlflow.db"
    mlflow.set_tracking_uri(None)


def begin_runs(start: float) -> int:
    """What a process does that begins at the same moment as others: it opens a run."""
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    time.sleep(max(0.0, start - time.time()))
    open_run(f"of {os.getpid()}").set_tags({"mm.seed": "0"})
    return 0


def die_before_it_is_in_its_place(file: str) -> int:
    database_module.os.link = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
    make_database(database_file(f"sqlite:///{file}"))
    return 0


def start(folder, target, *words):
    return Forked(target, words, environment(folder), folder, folder / f"said-{time.monotonic_ns()}.log")


def tables(file, *statements):
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_processes_that_find_no_store_make_one_and_all_use_it(fresh):
    moment = time.time() + 1
    processes = [start(fresh.parent, begin_runs, moment) for _ in range(AT_ONCE)]
    ended = [process.wait(120) for process in processes]
    assert ended == [0] * AT_ONCE, [process.said() for process in processes]
    assert len(MlflowClient().search_runs(["0"])) == AT_ONCE
    assert not list(fresh.parent.glob(".mlflow.db*"))


@pytest.mark.verify
@pytest.mark.parametrize("number", range(20))
def test_eight_processes_that_find_no_store_all_use_one(fresh, number):
    with recorded("8 processes at once on a fresh SQLite store", "nothing"):
        moment = time.time() + 1
        processes = [start(fresh.parent, begin_runs, moment) for _ in range(8)]
        ended = [process.wait(120) for process in processes]
        assert ended == [0] * 8, [process.said() for process in processes]
        assert len(MlflowClient().search_runs(["0"])) == 8


@pytest.mark.verify
@pytest.mark.parametrize("number", range(10))
def test_a_kill_in_the_first_moments_of_a_store_leaves_one_that_works(fresh, number):
    with recorded("SIGKILL while a fresh SQLite store is made", "nothing: the next command makes it"):
        process = start(fresh.parent, begin_runs, 0.0)
        time.sleep(random.Random(20261130 + number).uniform(0.0, 1.5))
        process.kill()
        process.wait(60)
        assert new_client().get_experiment("0").name == "Default"
        open_run("after it").set_tags({"mm.seed": "0"})


def test_a_process_killed_while_it_makes_a_store_leaves_none(fresh):
    process = start(fresh.parent, die_before_it_is_in_its_place, str(fresh))
    assert process.wait(120) == -signal.SIGKILL
    assert not fresh.exists()
    assert list(fresh.parent.glob(".mlflow.db-*"))
    new_client().create_experiment("after it")
    assert sorted(path.name for path in fresh.parent.glob("*mlflow.db*")) == ["mlflow.db"]


def test_a_store_that_another_program_is_making_is_waited_for(fresh, empty_database):
    tables(fresh, "CREATE TABLE experiments (experiment_id INTEGER)")

    def finish():
        shutil.copy(empty_database, fresh.with_name("made"))
        os.replace(fresh.with_name("made"), fresh)

    timer = threading.Timer(0.5, finish)
    timer.start()
    assert new_client().get_experiment("0").name == "Default"
    timer.join()


def test_an_empty_file_is_no_store(fresh, monkeypatch):
    monkeypatch.setattr(database_module, "QUIET_SECONDS", 0.0)
    fresh.touch()
    assert new_client().get_experiment("0").name == "Default"


def test_a_store_that_another_program_left_half_made_is_named(fresh, monkeypatch):
    monkeypatch.setattr(database_module, "QUIET_SECONDS", 0.0)
    tables(fresh, "CREATE TABLE experiments (experiment_id INTEGER)")
    with pytest.raises(UserError, match=r"mlflow.db is half made, .* has no runs: remove it"):
        new_client()


def test_a_store_of_another_mlflow_is_not_called_half_made(fresh, empty_database, monkeypatch):
    monkeypatch.setattr(database_module, "QUIET_SECONDS", 0.0)
    shutil.copy(empty_database, fresh)
    tables(fresh, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(UserError, match="cannot be opened: Detected out-of-date database schema"):
        new_client()


def test_a_place_where_no_store_can_be_is_named(fresh):
    fresh.parent.joinpath("file").touch()
    mlflow.set_tracking_uri(f"sqlite:///{fresh.parent}/file/mlflow.db")
    with pytest.raises(UserError, match=r"tracking store .*/file/mlflow.db cannot be made or read: .*file"):
        new_client()


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////there/mlflow.db", "/there/mlflow.db"),
        ("sqlite:///mlflow.db", None),
    ],
)
def test_the_file_of_a_store(uri, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(database_file(uri)) == (file or f"{tmp_path}/mlflow.db")


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///:memory:", "http://host:5000", "postgresql://host/db", "mlruns"]
)
def test_other_stores_have_no_file(uri):
    assert database_file(uri) is None
