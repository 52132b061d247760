"""The whole recipe while the tracking server is away from some moment on: the same run in the end, to the last bit."""

import random
import signal

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.folders import spool_folder
from mm_balance.tracking.lookup import find_run
from mm_balance.tracking.outage import client as client_module
from mm_balance.tracking.store import close_servers
from tests.helpers.commands import QUICK, do
from tests.helpers.faults import recorded, start_sync_dying
from tests.helpers.flaky import ADDRESS, use_flaky_server
from tests.helpers.stores import copy_database, use_store

pytestmark = pytest.mark.slow
WORDS = f"{QUICK} refit_every=1 worst=20"
TIMES = ("time/", "second", "cost/")


def contents(database):
    """Metrics with steps, status, artifacts and number of models of every run, by stage; and what the pages say."""
    found = {}
    for run in database.search_runs(["0"]):
        run_id, data = run.info.run_id, run.data
        points = {
            name: sorted((item.step, item.value) for item in database.get_metric_history(run_id, name))
            for name in data.metrics
            if not any(word in name for word in TIMES)
        }
        stage = data.tags["mm.stage"]
        items = {
            "status": run.info.status,
            **points,
            "params": data.params,
            "tags": set(data.tags) - {"mm.created_as"},
            "artifacts": sorted(name.partition("+timestamp+")[0] for name in walk(database, run_id)),
            "models": [
                (database.get_logged_model(item.model_id).status, item.step) for item in run.outputs.model_outputs
            ],
            "model metrics": [
                sorted({(item.key, item.step) for item in database.get_logged_model(output.model_id).metrics})
                for output in run.outputs.model_outputs
            ],
        }
        found |= {f"{stage}: {name}": value for name, value in items.items()}
    return found


def differences(one, other):
    """What differs, short enough to read."""
    return {name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)}


def walk(database, run_id, folder=""):
    for item in database.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from walk(database, run_id, item.path)
        else:
            yield item.path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, empty_database):
    """What a database has after the same command, and how many requests it takes on a server."""
    torch.set_num_threads(1)  # as in the tests: the number of threads changes sums
    found = []
    for server in (False, True):
        folder = tmp_path_factory.mktemp("undisturbed")
        copy_database(empty_database, folder)
        with pytest.MonkeyPatch.context() as patch:
            use_store(folder, patch)
            weather = use_flaky_server(folder, patch) if server else None
            assert do("main", WORDS) == 0
        database = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        found.append(contents(database))
    mlflow.set_tracking_uri(None)
    return found[0], found[1], weather.count


def test_a_run_on_a_server_is_that_on_a_database(undisturbed, signals):
    assert not differences(undisturbed[0], undisturbed[1])


@pytest.mark.verify
@pytest.mark.parametrize("seed", range(8))
def test_main_and_an_outage_from_any_moment_on(store, monkeypatch, signals, undisturbed, seed):
    with recorded("the server is away from a random moment of main to its end", "one line; what is pending at the end"):
        monkeypatch.setattr(client_module, "FINISH_SECONDS", 0.0)
        weather = use_flaky_server(store, monkeypatch)
        weather.lost = bool(seed % 2)
        weather.away = range(random.Random(seed).randrange(20, undisturbed[2]), 10**9)
        assert do("main", WORDS) == 0
        weather.away = range(0)
        assert do("sync") == 0
        assert not differences(contents(MlflowClient(f"sqlite:///{store}/mlflow.db")), undisturbed[0])
        assert not list(spool_folder().rglob("operations.jsonl"))
        close_servers()
        mlflow.set_tracking_uri(None)


@pytest.mark.verify
@pytest.mark.parametrize("number", range(6))
def test_a_delivery_killed_at_any_request_is_continued_by_the_next(store, monkeypatch, signals, undisturbed, number):
    with recorded("SIGKILL of sync at a request", "the same command delivers the rest"):
        draw = random.Random(20261200 + number)
        monkeypatch.setattr(client_module, "FINISH_SECONDS", 0.0)
        weather = use_flaky_server(store, monkeypatch)
        weather.away = range(draw.randrange(20, undisturbed[2] // 2), 10**9)
        assert do("main", WORDS) == 0
        weather.away = range(0)
        pending = sum(file.read_text().count("\n") for file in spool_folder().rglob("operations.jsonl"))
        process = start_sync_dying(store, draw.randrange(1, pending), answered=bool(number % 2))
        process.wait(120)
        assert process.returncode == -signal.SIGKILL, process.said()
        assert do("sync") == 0
        assert not differences(contents(MlflowClient(f"sqlite:///{store}/mlflow.db")), undisturbed[0])
        assert not list(spool_folder().rglob("operations.jsonl"))
        close_servers()
        mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("lost", [False, pytest.param(True, marks=pytest.mark.verify)], ids=["refused", "answers lost"])
def test_an_outage_that_outlasts_the_command_loses_nothing(store, monkeypatch, signals, undisturbed, lost, capsys):
    monkeypatch.setattr(client_module, "FINISH_SECONDS", 0.0)
    weather = use_flaky_server(store, monkeypatch)
    weather.lost = lost
    # Some requests are made before there is a run: without a server, no command begins.
    weather.away = range(random.Random(20261130 + lost).randrange(20, undisturbed[2] // 2), 10**9)
    assert do("main", WORDS) == 0
    said = capsys.readouterr()
    assert "training goes on" in said.err
    assert "are pending" in said.err
    assert "test accuracy: fused" in said.out
    weather.away = range(0)
    assert do("sync") == 0
    assert not differences(contents(MlflowClient(f"sqlite:///{store}/mlflow.db")), undisturbed[0])
    assert not list(spool_folder().rglob("operations.jsonl"))
    told = next(line.split()[1] for line in said.out.splitlines() if line.startswith("run: "))
    assert find_run(told).read().info.status == "FINISHED", "the id that was printed finds the run"
    assert ADDRESS not in said.err + said.out
    close_servers()
    mlflow.set_tracking_uri(None)
