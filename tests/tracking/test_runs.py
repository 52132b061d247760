"""Runs when several processes write at once."""

import json

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mm_balance import names
from mm_balance.engine.recorder import MetricPoint
from mm_balance.models import MultimodalNetwork
from mm_balance.testing import tiny_data as make_tiny_data
from mm_balance.tracking import runs
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.model import load_network, log_model
from mm_balance.tracking.query import read_run
from mm_balance.tracking.runs import TrackedRun


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(runs.time, "sleep", lambda seconds: None)
    return open_run("some run")


class Racing(MlflowClient):
    """Another process adds the same data set or tag between look and insertion, some times."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def lose(self, columns):
        if self.losses:
            self.losses -= 1
            raise MlflowException(f"(sqlite3.IntegrityError) UNIQUE constraint failed: {columns}")

    def log_inputs(self, *words, **more):
        self.lose("datasets.experiment_id, datasets.name, datasets.digest")
        super().log_inputs(*words, **more)

    def set_experiment_tag(self, *words, **more):
        self.lose("experiment_tags.key, experiment_tags.experiment_id")
        super().set_experiment_tag(*words, **more)

    def log_batch(self, *words, **more):
        self.lose("tags.key, tags.run_uuid")
        super().log_batch(*words, **more)


def test_a_lost_race_for_the_data_set_is_run_again(run):
    TrackedRun(run.run_id, Racing(losses=3)).log_dataset(make_tiny_data(), "training")
    (found,) = run.read().inputs.dataset_inputs
    assert found.dataset.name == "tiny"


def test_a_lost_race_for_a_tag_is_run_again(run):
    """Two runs that begin an experiment at once both describe it; two workers may tag the run of their study."""
    racing = TrackedRun(run.run_id, Racing(losses=3))
    racing.set_experiment_tags({"mlflow.note.content": "ours"})
    assert run.experiment_tags()["mlflow.note.content"] == "ours"
    TrackedRun(run.run_id, Racing(losses=3)).set_tags({"mm.error": "none"})
    assert run.read().data.tags["mm.error"] == "none"


def test_a_lasting_failure_is_not_hidden(run):
    racing = TrackedRun(run.run_id, Racing(losses=100))
    with pytest.raises(MlflowException, match="UNIQUE"):
        racing.log_dataset(make_tiny_data(), "training")


def test_a_run_that_goes_on_no_longer_says_why_it_had_failed(run):
    for _ in range(2):  # the second time there is nothing to take away
        run.reopen()
        assert run.read().info.status == "RUNNING"
        assert "mm.error" not in run.read().data.tags
    run.set_tags({"mm.error": "out of memory"})
    run.terminate("FAILED")
    run.reopen()
    assert "mm.error" not in run.read().data.tags


def test_the_model_of_a_run_is_the_one_that_it_logged_last(run):
    """A continued run may be best at an earlier epoch than it was before."""
    data = make_tiny_data()
    for seed, step in ((0, 6), (1, 4)):
        torch.manual_seed(seed)
        model = MultimodalNetwork(data.specs, len(data.classes), encoder="resnet_narrow", fusion="concat")
        log_model(run, model, data, step)
    found, epoch = load_network(run)
    assert epoch == 4
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())


SINGLE = {"selection/last_epoch": 4.0, "cost/relative": 1 / 3, "time/training_seconds": 12.5}


def test_single_numbers_of_a_nested_run_are_in_a_table_that_readers_find(run):
    nested = open_run("adaptive", parent=run, tags={"mm.stage": "adaptive"})
    nested.log_metrics(SINGLE | {"val/accuracy": 0.5}, 4)
    nested.log_metrics({"time/publishing_seconds": 2.0, "time/training_seconds": 13.0}, 4)
    expected = SINGLE | {"time/training_seconds": 13.0, "time/publishing_seconds": 2.0}
    assert set(nested.read().data.metrics) == {"val/accuracy"}
    assert nested.summary() == pytest.approx(expected, rel=1e-12)
    assert read_run(nested.run_id).metrics == pytest.approx({"val/accuracy": 0.5} | expected, rel=1e-12)
    table = nested.read_json("summary.json")
    assert table["columns"] == ["name", "value", "meaning"]
    assert table["data"][0] == ["selection/last_epoch", 4.0, "last epoch of the run"]
    assert json.loads(nested.read().data.tags["mlflow.loggedArtifacts"]) == [{"path": "summary.json", "type": "table"}]


def test_single_numbers_of_a_run_of_its_own_are_metrics_which_the_table_of_runs_sorts(run):
    run.log_metrics(SINGLE, 4)
    assert run.read().data.metrics == SINGLE
    assert run.summary() == {}
    assert read_run(run.run_id).metrics == SINGLE


def test_nested_runs_of_older_versions_have_them_as_metrics(run):
    nested = open_run("adaptive", parent=run)
    older = dict.fromkeys(names.SUMMARY_METRICS, 1.0)
    nested.log_points([MetricPoint(4, 0, older)])
    assert read_run(nested.run_id).metrics == older


def test_a_second_table_does_not_hide_the_first(run):
    for path in ("one", "two", "one"):
        run.log_table([{"x": 1}], path)
    shown = json.loads(run.read().data.tags["mlflow.loggedArtifacts"])
    assert [item["path"] for item in shown] == ["one.json", "two.json"]
