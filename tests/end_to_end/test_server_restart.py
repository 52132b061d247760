"""A real tracking server that is killed while a command works, and started again, or that eight share: all arrives, once."""

import contextlib
import time

import pytest
from mlflow.tracking import MlflowClient

from tests.helpers.faults import recorded
from tests.helpers.manifests import Folder
from tests.helpers.processes import Spawned, finished, python_words, start_command, wait_for
from tests.helpers.servers import free_port, tracking_server

pytestmark = pytest.mark.verify
AWAY_SECONDS = 12.0
STUDY = "--preset quick --train_fraction 0.1 --trials 3 --workers 1 --study_name away --pruner none"


@contextlib.contextmanager
def outage_after(store, seen, entry_point, words, monkeypatch):
    """A command whose server is killed when ``seen`` gives something, and comes back; the block ends with the command."""
    port = free_port()
    with tracking_server(store, port) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        process = Spawned(python_words(entry_point, words), store)
        wait_for(seen, process)
    time.sleep(AWAY_SECONDS)
    assert process.poll() is None or process.returncode == 0, process.said()
    with tracking_server(store, port):
        assert process.wait(240) == 0, process.said()
        if "are pending" in process.said():  # it ended before the server was back
            assert finished(python_words("sync", []), store).returncode == 0
        yield process.said()


@pytest.mark.parametrize("runs", [1, 2, 3], ids=["parent", "warm-up", "first trial"])
def test_a_study_outlasts_a_restart(store, monkeypatch, runs):
    database = MlflowClient(f"sqlite:///{store}/mlflow.db")

    def seen():
        return len(database.search_runs(["0"])) >= runs

    sees = "one line when the server stops answering, one when it is back, with the number of entries delivered"
    with recorded("the server is killed and started again 12 s later, during study", sees):
        check_study(store, monkeypatch, database, seen)


def check_study(store, monkeypatch, database, seen):
    with outage_after(store, seen, "study", STUDY.split(), monkeypatch) as said:
        assert "Traceback" not in said
    found = {run.data.tags["mlflow.runName"]: run for run in database.search_runs(["0"])}
    trials = [run for name, run in found.items() if name.startswith("trial-")]
    assert len(found) == 5
    assert len(trials) == 3
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    for run in trials:
        points = database.get_metric_history(run.info.run_id, "val/loss")
        assert [point.step for point in points] == [3, 4]
    assert not list(store.rglob("operations.jsonl"))
    assert not list(store.rglob("refused.jsonl"))


def test_prepare_outlasts_a_restart(store, monkeypatch, tmp_path):
    folder = Folder(tmp_path).fill(counts=(("train", 150), ("val", 10), ("test", 10)))
    manifest = folder.write()

    def seen():
        return list((store / "cache").rglob("*.jsonl"))

    words = ["--dataset", str(manifest), "--workers", "2"]
    with recorded("the server is killed and started again 12 s later, during prepare", "one line each, or nothing"):
        with outage_after(store, seen, "prepare", words, monkeypatch) as said:
            assert "Traceback" not in said
        (run,) = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["data/train"] == 300


MAIN = "--preset quick --train_fraction 0.05 --warmup_epochs 2 --adaptive_epochs 3 --refit_every 1 --worst 0"


@pytest.mark.parametrize("number", range(3))
def test_main_outlasts_a_restart(store, monkeypatch, number):
    database = MlflowClient(f"sqlite:///{store}/mlflow.db")
    with recorded("the server is killed and started again 12 s later, during main", "one line each"):
        # As soon as the parent, the warm-up, or the second stage is there.
        with outage_after(
            store, lambda: len(database.search_runs(["0"])) > number, "main", MAIN.split(), monkeypatch
        ) as said:
            assert "Traceback" not in said
        found = {run.data.tags["mm.stage"]: run for run in database.search_runs(["0"])}
        assert set(found) == {"main", "warmup", "adaptive", "evaluate"}
        assert {run.info.status for run in found.values()} == {"FINISHED"}
        for stage, steps in (("warmup", [1, 2]), ("adaptive", [3, 4, 5])):
            points = database.get_metric_history(found[stage].info.run_id, "val/loss")
            assert [point.step for point in points] == steps
        assert not list(store.rglob("operations.jsonl"))


def test_eight_clients_share_a_server(store, monkeypatch):
    with recorded("8 commands at once on one server", "nothing"), tracking_server(store) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        words = "--preset quick --train_fraction 0.05 --warmup_epochs 1 --seed".split()
        processes = [start_command(store, "warmup", [*words, str(seed)]) for seed in range(8)]
        ended = [process.wait(300) for process in processes]
        assert ended == [0] * 8, [process.said() for process in processes]
        found = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"])
        assert {(run.data.tags["mm.seed"], run.info.status) for run in found} == {
            (str(seed), "FINISHED") for seed in range(8)
        }
        assert len(found) == 8
