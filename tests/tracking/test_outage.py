"""A tracking server that goes away: nothing is lost, nothing comes twice, nothing waits for long."""

import json
import os
import random
import signal
import threading
import time
from contextlib import suppress

import mlflow
import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, UNAUTHENTICATED
from mlflow.tracking import MlflowClient

from mm_balance import stopping
from mm_balance.commands.guard import run_guarded
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import Interrupted, UserError
from mm_balance.folders import spool_folder
from mm_balance.testing import tiny_data as make_tiny_data
from mm_balance.tracking import store as store_module
from mm_balance.tracking.lookup import children, current_experiment, find_run, find_warmup, open_run
from mm_balance.tracking.outage import client as client_module
from mm_balance.tracking.outage.connection import Away, Closed, Requests, means_away
from mm_balance.tracking.outage.operations import Operation, perform
from mm_balance.tracking.runs import TrackedRun
from mm_balance.tracking.store import close_servers, new_client, sync
from tests.helpers.commands import QUICK, do
from tests.helpers.faults import recorded
from tests.helpers.flaky import use_flaky_server
from tests.helpers.stores import copy_database, use_store

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


@pytest.fixture
def weather(store, monkeypatch):
    monkeypatch.setattr(client_module, "FINISH_SECONDS", 0.1)
    yield use_flaky_server(store, monkeypatch)
    stopping.requested.clear()
    close_servers()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def database(store):
    """What the server has, seen without it."""
    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def write_everything(run):
    """Every kind of entry that a run can have."""
    run.set_tags({"mm.seed": "3", "away": "x"})
    run.log_params({"config/epochs": "2"})
    run.log_points(
        [MetricPoint(1, 1000, {"val/loss": 1.0, "val/accuracy": 0.5}), MetricPoint(2, 2000, {"val/loss": 0.5})]
    )
    run.send_missing([MetricPoint(2, 2500, {"val/loss": 0.5}), MetricPoint(3, 3000, {"val/loss": 0.4})])
    run.log_dataset(make_tiny_data(), "training")
    run.log_json({"seed": 3}, "some/config.json")
    run.log_table([{"x": 1}], "table")
    run.log_step_image(PNG, "gmm/density", 2)
    run.set_experiment_tags({"mlflow.note.content": "ours"})
    run.describe(f"[page](#/runs/{run.run_id})")
    nested = open_run("nested", parent=run, tags={"mm.stage": "warmup"})
    nested.log_metrics({"val/loss": 2.0}, 1)
    nested.terminate("FINISHED")
    assert children(run)["warmup"].read().info.status == "FINISHED"
    assert run.metric_series("val/loss") == [(1, 1.0), (2, 0.5), (3, 0.4)]
    assert run.read_json("some/config.json") == {"seed": 3}
    assert run.artifact_names("some") == ["some/config.json"]
    assert len(run.step_images("gmm/density", 2)) == 1
    run.rename("another name")
    run.terminate("FINISHED")


def contents(database):
    """All that a server has of our runs, without ids and times."""
    runs = database.search_runs(["0"], order_by=["attributes.start_time ASC"])
    ids = {run.info.run_id: f"run {run.info.run_name}" for run in runs}

    def known(text):
        for run_id, name in ids.items():
            text = text.replace(run_id, name)
        return text

    def artifacts(run_id, folder=""):
        for item in database.list_artifacts(run_id, folder):
            if item.is_dir:
                yield from artifacts(run_id, item.path)
            else:
                yield item.path.partition("+timestamp+")[0]

    found = {}
    for run in runs:
        points = {
            name: sorted((item.step, item.value) for item in database.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        tags = {name: known(text) for name, text in run.data.tags.items() if name != "mm.created_as"}
        inputs = [item.dataset.name for item in run.inputs.dataset_inputs]
        found[run.info.run_name] = (
            run.info.status, run.data.params, tags, points, inputs, sorted(artifacts(run.info.run_id)),
        )  # fmt: skip
    return found, dict(database.get_experiment("0").tags)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, empty_database):
    """What an undisturbed server has."""
    folder = tmp_path_factory.mktemp("undisturbed")
    copy_database(empty_database, folder)
    with pytest.MonkeyPatch.context() as patch:
        use_store(folder, patch)
        weather = use_flaky_server(folder, patch)
        write_everything(open_run("first"))
        close_servers()
    mlflow.set_tracking_uri(None)
    found = contents(MlflowClient(f"sqlite:///{folder}/mlflow.db"))
    assert set(found[0]) == {"another name", "nested"}
    return found, weather.count


def test_what_a_server_gets_is_what_a_database_gets(expected, store, database):
    write_everything(open_run("first"))
    assert contents(database) == expected[0]


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answers lost"])
@pytest.mark.parametrize("seed", range(6))
def test_an_outage_at_any_moment_changes_nothing(weather, database, expected, lost, seed, capsys):
    weather.lost = lost
    assert current_experiment() == "0"
    weather.away = range(random.Random(seed).randrange(weather.count + 1, expected[1] + 1), 10**9)
    write_everything(open_run("first"))
    weather.away = range(0)
    wait_until_delivered()
    close_servers()
    assert contents(database) == expected[0]
    said = capsys.readouterr().err
    assert said.count("does not answer (connection refused); training goes on") == 1
    assert said.count("answers again") == 1
    assert "SECRETPW" not in said
    assert not left()


@pytest.mark.verify
@pytest.mark.parametrize("kind", ["refused", "answers lost", "server errors", "two outages"])
@pytest.mark.parametrize("seed", range(100, 115))
def test_outages_of_every_kind_at_many_moments_change_nothing(weather, database, expected, kind, seed):
    with recorded(
        f"the server is away from a random request on: {kind}", "one line when it is away, one when it is back"
    ):
        weather.lost = kind == "answers lost"
        weather.code = "INTERNAL_ERROR" if kind == "server errors" else None
        current_experiment()
        draw = random.Random(seed)
        first = draw.randrange(weather.count + 1, expected[1] + 1)
        weather.away = range(first, first + 4 if kind == "two outages" else 10**9)
        run = open_run("first")
        if kind == "two outages":
            write_everything(run)
            wait_until_delivered()
            weather.away = range(weather.count + 1, 10**9)
            run.set_tags({"mm.seed": "3"})
        else:
            write_everything(run)
        weather.away = range(0)
        wait_until_delivered()
        close_servers()
        assert contents(database) == expected[0]
        assert not left()


def left():
    return [path for path in spool_folder().rglob("*") if path.name == "operations.jsonl"]


def wait_until_delivered():
    client = new_client()
    last = time.monotonic() + 20
    while client._away and time.monotonic() < last:
        time.sleep(0.02)
    assert not client._away


def test_what_is_pending_at_the_end_is_delivered_by_sync_under_the_ids_that_the_user_was_told(
    weather, database, expected, capsys
):
    current_experiment()
    weather.away = range(weather.count + 1, 10**9)
    run = open_run("first")
    write_everything(run)
    close_servers()
    said = capsys.readouterr().err
    assert "entries for http://ann:***@tracking.test:5000 are pending" in said
    assert "-e sync" in said
    assert not database.search_runs(["0"])
    weather.away = range(0)
    assert do("sync") == 0
    assert "entries delivered" in capsys.readouterr().out
    assert contents(database) == expected[0]
    assert not left()
    found = find_run(run.run_id)  # the id that was printed
    assert found.read().info.run_name == "another name"
    assert do("sync") == 0
    assert "nothing is pending" in capsys.readouterr().out


def test_sync_that_is_interrupted_goes_on_where_it_was(weather, database, expected):
    current_experiment()
    weather.away = range(weather.count + 1, 10**9)
    write_everything(open_run("first"))
    close_servers()
    for step in (4, 9, 15):
        weather.away = range(weather.count + step, 10**9)
        weather.lost = True
        with pytest.raises(Exception, match="Connection refused"):
            sync()
    weather.away = range(0)
    assert sync() > 0
    assert contents(database) == expected[0]


def test_a_server_that_is_not_there_is_told_within_seconds(weather):
    weather.away = range(1, 10**9)
    with pytest.raises(
        UserError, match=r"tracking server http://ann:\*\*\*@tracking.test:5000 does not answer \(connection"
    ):
        new_client()


def test_a_server_that_hangs_at_the_start_is_told_too(weather, monkeypatch):
    monkeypatch.setattr(client_module.connection, "PROBE_SECONDS", 0.3)
    weather.hangs.set()
    with pytest.raises(UserError, match=r"does not answer \(no answer in time\)"):
        new_client()
    weather.released.set()


def test_a_project_whose_server_is_away_ends_with_one_line(weather, monkeypatch, capsys, signals):
    """`mlflow run` made a run for it, which cannot be ended either."""
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    weather.away = range(1, 10**9)
    assert do("main", QUICK) == 1
    said = capsys.readouterr().err
    assert said.count("mm-balance: error: the tracking server") == 1
    assert "Traceback" not in said


def test_a_stop_while_the_server_is_away_ends_the_command_and_is_no_error(weather, monkeypatch, signals):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    def stopped(stop):
        new_client()
        weather.away = range(1, 10**9)
        os.kill(os.getpid(), signal.SIGTERM)
        raise Interrupted

    assert run_guarded(stopped) == 128 + signal.SIGTERM


def test_points_of_an_earlier_process_are_not_forgotten(weather, database):
    """Half of a series would have the other half sent again."""
    run_id = database.create_run("0").info.run_id
    database.log_metric(run_id, "val/loss", 1.0, step=1)
    current_experiment()
    weather.away = range(weather.count + 1, 10**9)
    run = TrackedRun(run_id)
    run.log_points([MetricPoint(2, 2000, {"val/loss": 0.5})])
    stopping.requested.set()
    with pytest.raises(Interrupted):
        run.metric_series("val/loss")


def test_ids_of_this_machine_are_given_only_while_the_server_is_away(weather, database):
    run = open_run("first")
    assert database.get_run(run.run_id).info.run_name == "first"
    assert not new_client()._ids
    with weather.outage():
        other = open_run("second")
    wait_until_delivered()
    assert new_client()._ids == {other.run_id: database.search_runs(["0"])[0].info.run_id}


def test_a_process_that_another_has_started_waits_for_the_server(weather, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_LAUNCHER", "1")
    weather.away = range(1, 4)
    assert current_experiment() == "0"


def test_a_stop_does_not_wait_for_a_server_that_hangs(weather, monkeypatch):
    run = open_run("first")
    weather.hangs.set()
    threading.Timer(0.3, stopping.requested.set).start()
    began = time.monotonic()
    run.set_tags({"mm.seed": "0"})
    run.terminate("KILLED")
    assert time.monotonic() - began < 2.0
    weather.hangs.clear()
    weather.released.set()


def test_what_memory_cannot_answer_waits_for_the_server(weather, database):
    other = database.create_run("0", run_name="of somebody else").info.run_id
    run = open_run("first")
    weather.away = range(weather.count + 1, weather.count + 12)
    run.set_tags({"mm.seed": "0"})
    assert TrackedRun(other).read().info.run_name == "of somebody else"
    weather.away = range(weather.count + 1, 10**9)
    run.set_tags({"mm.seed": "1"})
    stopping.requested.set()
    with pytest.raises(Interrupted):
        TrackedRun(database.create_run("0").info.run_id).read()


def test_what_the_server_refuses_for_good_is_set_aside_and_the_rest_is_delivered(weather, database, capsys):
    run = open_run("first")
    with weather.outage():
        run.log_params({"config/epochs": "2"})
        database.log_param(run.run_id, "config/epochs", "3")  # meanwhile, somebody else
        run.set_tags({"mm.seed": "0"})
    wait_until_delivered()
    close_servers()
    assert database.get_run(run.run_id).data.tags["mm.seed"] == "0"
    assert "the server refuses an entry (log_batch: " in capsys.readouterr().err
    (refused,) = spool_folder().rglob("refused.jsonl")
    assert json.loads(refused.read_text())["values"]["params"] == {"config/epochs": "2"}


def test_a_full_disk_is_one_line(weather, monkeypatch):
    run = open_run("first")
    weather.away = range(weather.count + 1, 10**9)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mm_balance.tracking.outage.spool.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot be kept in .*: No space left on device"):
        run.set_tags({"mm.seed": "0"})


def test_errors_of_the_server_that_pass_are_told_from_those_that_do_not():
    import requests
    from mlflow.exceptions import MlflowException, RestException

    def answer(code):
        response = requests.Response()
        response.status_code = code
        return requests.HTTPError("failed", response=response)

    passing = [
        requests.ConnectionError("Connection refused"),
        requests.Timeout("timed out"),
        *(answer(code) for code in (500, 502, 503, 504, 408, 429)),
        MlflowException("API request to http://h/api failed with exception HTTPConnectionPool"),
        MlflowException("API request to http://h/api failed with timeout exception"),
        RestException({"error_code": "INTERNAL_ERROR", "message": "disk I/O error"}),
        RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}),
    ]
    lasting = [
        *(answer(code) for code in (400, 401, 403, 404)),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}),
        RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "Changing param values"}),
        RestException({"error_code": "INTERNAL_ERROR", "message": "UNIQUE constraint failed: tags.key"}),
        ValueError("timed out"),
    ]
    assert all(means_away(error) for error in passing)
    assert not any(means_away(error) for error in lasting)


def test_requests_give_up_in_time_and_pass_other_errors_on():
    asked = Requests()
    gate = threading.Event()
    with pytest.raises(Away, match="no answer in time"):
        asked.make(gate.wait, seconds=0.2, attempts=1)
    gate.set()
    assert asked.make(lambda: 3) == 3

    def wrong():
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        asked.make(wrong)


def test_metrics_that_are_not_finite_survive_the_spool(weather, database):
    run = open_run("first")
    with weather.outage():
        run.log_points([MetricPoint(1, 1000, {"x": float("nan"), "y": float("inf")})])
    wait_until_delivered()
    data = database.get_run(run.run_id).data
    assert data.metrics["x"] != data.metrics["x"]
    assert data.metrics["y"] > 1e300


def test_half_a_line_at_the_end_of_a_spool_is_not_an_entry(weather, database):
    run = open_run("first")
    weather.away = range(weather.count + 1, 10**9)
    run.set_tags({"mm.seed": "0"})
    close_servers()
    (path,) = left()
    with path.open("a") as file:
        file.write('{"kind": "log_ba')
    weather.away = range(0)
    assert sync() == 1
    assert database.get_run(run.run_id).data.tags["mm.seed"] == "0"


def test_a_server_that_is_not_there_ends_a_command_before_it_decodes_anything(store, monkeypatch, capsys):
    from mm_balance.workflow import setup

    weather = use_flaky_server(store, monkeypatch)
    weather.away = range(10**9)
    monkeypatch.setattr(setup, "read_data", lambda *words: pytest.fail("data were read"))
    assert do("prepare", "dataset=digits") == 1
    assert "does not answer" in capsys.readouterr().err
    mlflow.set_tracking_uri(None)


def as_another_process(patch):
    """A client that knows nothing of what this process has done, as one of a process that it has started."""
    patch.setattr(store_module, "_servers", {})
    return new_client()


def test_a_search_that_other_processes_could_answer_waits_for_the_server(weather, monkeypatch):
    open_run("before")
    monkeypatch.setattr(client_module, "PATIENCE_SECONDS", 0.3)
    with weather.outage(), pytest.raises(UserError, match="has not answered"):
        find_warmup("0" * 64)  # "there is none" would be an answer that nobody has given


def test_what_a_process_that_has_ended_could_not_deliver_is_found_by_the_one_that_started_it(weather, monkeypatch):
    parent = open_run("study")
    parents_client = new_client()
    with monkeypatch.context() as patch:
        child = as_another_process(patch)
    with weather.outage():
        run = TrackedRun(child.create_run("0", tags={"mm.stage": "warmup", "mm.fingerprint": "f"}).info.run_id, child)
        run.terminate("FINISHED")
        child.close()
    found = find_warmup("f")
    assert new_client() is parents_client
    assert parent.read().info.status == "RUNNING"
    assert found is not None


def test_runs_nested_in_one_that_was_begun_in_an_outage_are_found_during_and_after_it(weather):
    open_run("before")
    with weather.outage():
        parent = open_run("main")
        open_run("warmup", parent=parent, tags={"mm.stage": "warmup"})
        assert set(children(parent)) == {"warmup"}
    wait_until_delivered()
    assert set(children(parent)) == {"warmup"}
    with weather.outage():
        open_run("adaptive", parent=parent, tags={"mm.stage": "adaptive"})
        assert set(children(parent)) == {"warmup", "adaptive"}


def test_a_run_that_another_living_process_has_still_to_deliver_is_waited_for(weather, monkeypatch):
    open_run("before")
    mine = new_client()
    with monkeypatch.context() as patch:
        worker = as_another_process(patch)
    monkeypatch.setattr(
        client_module, "PROBE_EVERY_SECONDS", 1.0
    )  # the worker sees the server before this process does
    with weather.outage():
        parent = open_run("study")
    assert mine._away
    assert worker.get_run(parent.run_id).info.run_name == "study"
    wait_until_delivered()
    close_servers()
    with pytest.raises(MlflowException, match="not found"):  # at once: nobody could still bring it
        worker.get_run("0" * 32)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (UNAUTHENTICATED, "does not let you in: it wants a user name and a password.*MLFLOW_TRACKING_USERNAME"),
        (PERMISSION_DENIED, r"this user may not do what this step needs.*\(403\); set MLFLOW_EXPERIMENT_NAME"),
    ],
)
def test_a_server_that_lets_nobody_in_is_said_in_one_line_at_the_start(weather, code, said, capsys):
    weather.code, weather.away = code, range(1, 10**9)
    with pytest.raises(UserError, match=said):
        new_client()


def test_a_password_that_is_changed_while_a_run_trains_loses_nothing(weather, database, capsys):
    run = open_run("first")
    weather.code = UNAUTHENTICATED
    with weather.outage():
        run.log_points([MetricPoint(1, 1000, {"val/loss": 0.5})])
        assert "it wants a user name and a password, or does not know yours" in capsys.readouterr().err
    wait_until_delivered()
    assert database.get_run(run.run_id).data.metrics["val/loss"] == 0.5


def test_what_this_user_may_not_do_is_no_outage(weather):
    run = open_run("first")
    weather.code = PERMISSION_DENIED
    with weather.outage(), pytest.raises(UserError, match="this user may not do"):
        run.log_points([MetricPoint(1, 1000, {"val/loss": 0.5})])


def test_a_host_name_that_the_server_does_not_accept_is_named_as_the_reason():
    said = "API request to endpoint /api failed with error code 403 != 200. Response body: 'Invalid Host header - possible'"

    def ask():
        raise MlflowException(said, error_code=PERMISSION_DENIED)

    with pytest.raises(Closed, match="--allowed-hosts"):
        Requests().make(ask)


def test_what_is_pending_is_not_set_aside_because_the_password_is_wrong(weather, database):
    run = open_run("first")
    with weather.outage():
        run.log_points([MetricPoint(1, 1000, {"val/loss": 0.5})])
        close_servers()
    client = new_client()
    assert client.delivered_first == 1
    with weather.outage():
        client.log_batch(run.run_id, [Metric("val/loss", 0.4, 2000, 2)])
        close_servers()
    for thread in threading.enumerate():  # requests of the client that has been closed would be counted, too
        if thread.name == "look for the tracking server":
            thread.join(10)
    weather.code = UNAUTHENTICATED
    weather.away = range(weather.count + 2, 10**9)  # the first question is answered
    with pytest.raises(UserError, match="the rest is kept"):
        new_client()
    weather.away = range(0)
    assert new_client().delivered_first == 1
    assert database.get_run(run.run_id).data.metrics["val/loss"] == 0.4


def test_a_certificate_that_is_not_trusted_is_named_as_the_reason():
    said = "API request to https://h/api failed with exception HTTPSConnectionPool: [SSL: CERTIFICATE_VERIFY_FAILED] x"

    def ask():
        raise MlflowException(said)

    with pytest.raises(Away, match="certificate is not trusted; MLFLOW_TRACKING_SERVER_CERT_PATH"):
        Requests().make(ask, attempts=1)


class Dying:
    """A client that dies at its n-th write: before it is done, or after it and before it is known."""

    WRITES = ("create_logged_model", "log_outputs", "log_batch", "log_model_artifacts", "finalize_logged_model")

    def __init__(self, client, number, *, done):
        self._client, self._number, self._done = client, number, done

    def __getattr__(self, name):
        function = getattr(self._client, name)
        if name not in self.WRITES:
            return function

        def write(*given, **more):
            self._number -= 1
            if self._number:
                return function(*given, **more)
            if self._done:
                function(*given, **more)
            raise KeyboardInterrupt

        return write


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
def test_a_model_whose_delivery_dies_twice_anywhere_is_delivered_once(store, database, tmp_path, done):
    (tmp_path / "files" / "model").mkdir(parents=True)
    (tmp_path / "files" / "model" / "MLmodel").write_text("model_id: m-here\n")
    for number in range(1, len(Dying.WRITES) + 1):
        run = database.create_run("0").info.run_id
        database.log_batch(run, metrics=[Metric("val/accuracy", 0.5, 1, 3), Metric("val/accuracy", 0.6, 2, 4)])
        own = f"m-here{number}"
        values = {"created_as": own, "run": run, "name": "model", "step": 4, "tags": {"a": "b"}}
        operation = Operation("log_model", values, "model")
        for _ in range(2):
            # Where something is there already, the second attempt has fewer writes, and may survive.
            with suppress(KeyboardInterrupt):
                perform(Dying(database, number, done=done), operation, {}, tmp_path / "files")
        ids = {}
        perform(database, operation, ids, tmp_path / "files")
        (output,) = database.get_run(run).outputs.model_outputs
        model = database.get_logged_model(output.model_id)
        assert (ids[own], output.step, str(model.status)) == (model.model_id, 4, "READY")
        assert [(item.key, item.step, item.value) for item in model.metrics] == [("val/accuracy", 4, 0.6)]
        assert model.tags["a"] == "b"
        assert [item.path for item in database.list_logged_model_artifacts(model.model_id)] == ["MLmodel"]
    assert len(database.search_logged_models(["0"])) == len(Dying.WRITES)
