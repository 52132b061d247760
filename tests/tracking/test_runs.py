"""Runs when several processes write at once."""

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mm_balance.models import MultimodalNetwork
from mm_balance.testing import tiny_data as make_tiny_data
from mm_balance.tracking import runs
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.model import load_network, log_model
from mm_balance.tracking.runs import TrackedRun


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(runs.time, "sleep", lambda seconds: None)
    return open_run("some run")


class Racing(MlflowClient):
    """Another process adds the data set between look and insertion, some times."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def log_inputs(self, *words, **more):
        if self.losses:
            self.losses -= 1
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        super().log_inputs(*words, **more)


def test_a_lost_race_for_the_data_set_is_run_again(run):
    TrackedRun(run.run_id, Racing(losses=3)).log_dataset(make_tiny_data(), "training")
    (found,) = run.read().inputs.dataset_inputs
    assert found.dataset.name == "tiny"


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
