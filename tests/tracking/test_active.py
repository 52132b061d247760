"""Refits on the active MLflow run of a script that knows nothing of us: as on our own runs, each exactly once."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import mm_balance as mm
from mm_balance import names
from mm_balance.errors import UserError
from mm_balance.tracking import refits
from mm_balance.tracking.lookup import find_run
from tests.helpers.predictions import multi_label_predictions, predictions
from tests.helpers.servers import tracking_server

IDS = [f"clip {place}" for place in range(300)]
VALIDATION_METRICS = {"val/gap_mean", "val/gap_std", "val/gap_mean_abs", "val/density_at_zero"}


def measured(seed=0, **more):
    return mm.measure(*predictions(seed=seed, **more)[:2], IDS)


@pytest.fixture
def run(store):
    """A run that a script has begun by itself."""
    with mlflow.start_run() as active:
        yield find_run(active.info.run_id)


def artifacts(run):
    return sorted(path for paths in run.artifact_tree().values() for path in paths)


def test_a_script_has_what_our_own_runs_have(run):
    training, validation = measured(), measured(seed=1)
    mlflow.log_metric("loss", 0.5, step=3)
    mm.log_refit(training, 3, validation=validation)
    logged = run.read().data.metrics
    assert set(logged) == {"loss", *names.REFIT_METRICS, *VALIDATION_METRICS}
    assert {name: logged[name] for name in names.REFIT_METRICS} == pytest.approx(training.metrics())
    assert logged["val/gap_mean"] == pytest.approx(float(validation.gaps.mean()))
    assert [step for step, _ in run.metric_series("gap/mean")] == [3]
    assert refits.is_complete(run, 3, with_validation=True)
    read = refits.read_refit(run, 3)
    assert read.mixture == training.mixture
    np.testing.assert_array_equal(read.gaps, training.gaps.numpy())
    pd.testing.assert_frame_equal(refits.read_gap_table(run, 3), training.table())
    assert {path for path in artifacts(run) if path.startswith("refits/")} == {
        f"refits/epoch_0003/{name}"
        for name in (
            "mixture.json",
            "density.png",
            "gaps.parquet",
            "validation_mixture.json",
            "validation_gaps.parquet",
        )
    }


def test_several_true_classes_are_logged_and_read_back(run):
    logits, labels, fused = multi_label_predictions()
    training = mm.measure(logits, labels, IDS, fused=fused)
    mm.log_refit(training, 3, validation=mm.measure(*multi_label_predictions(seed=1)[:2], IDS))
    assert refits.is_complete(run, 3, with_validation=True)
    assert refits.read_refit(run, 3).mixture == training.mixture
    table = refits.read_gap_table(run, 3)
    pd.testing.assert_frame_equal(table, training.table())
    np.testing.assert_array_equal(table["label"].str.get_dummies(" "), labels)
    assert len(refits.read_validation_table(run, 3)) == len(IDS)


def test_the_run_page_has_a_slider_over_all_steps(run):
    for step in (2, 4):
        mm.log_refit(measured(seed=step), step)
    for key, steps in ((names.DENSITY_IMAGE_KEY, (2, 4)), (names.FIRST_IMAGE_KEY, (0, 2, 4))):
        assert [len(run.step_images(key, step)) for step in steps] == [1] * len(steps)


def test_the_same_refit_once_more_adds_nothing(run):
    mm.log_refit(measured(), 3, validation=measured(seed=1))
    before = artifacts(run)
    mm.log_refit(measured(), np.int64(3), validation=measured(seed=1))
    assert artifacts(run) == before
    assert len(run.metric_series("gap/mean")) == 1


def test_another_refit_at_the_same_step_is_refused_before_anything_is_written(run):
    mm.log_refit(measured(), 3)
    with pytest.raises(UserError, match=r"has another refit at step 3 .* log this one at another step") as found:
        mm.log_refit(measured(seed=1), 3)
    assert "\n" not in str(found.value)
    assert refits.read_refit(run, 3).mixture == measured().mixture
    mm.log_refit(measured(seed=1), 4)


def test_it_keeps_the_script_and_its_measurement_as_they_are(run):
    training = measured()
    mm.log_refit(training, 3)
    assert training.epoch == 0
    assert mlflow.active_run().info.run_id == run.run_id
    assert run.read().info.status == "RUNNING"
    assert not [name for name in run.read().data.tags if name.startswith("mm.")]


def test_without_an_active_run_it_says_where_to_put_the_call(store):
    with pytest.raises(UserError, match=r"no active MLflow run .* `with mlflow.start_run\(\):`"):
        mm.log_refit(measured(), 3)


@pytest.mark.parametrize("step", [-1, 1.5, "3", None, True])
def test_a_step_that_is_no_number_of_epochs_is_refused(step):
    with pytest.raises(ValueError, match="must be a whole number of epochs, 0 or more"):
        mm.log_refit(measured(), step)


def test_another_run_than_the_active_one(run):
    other = MlflowClient().create_run("0").info.run_id
    mm.log_refit(measured(), 1, run_id=other, store=mlflow.get_tracking_uri())
    assert refits.refit_epochs(find_run(other)) == [1]
    assert refits.refit_epochs(run) == []
    with pytest.raises(UserError, match="run nowhere cannot be read"):
        mm.log_refit(measured(), 1, run_id="nowhere")


@pytest.fixture
def server(store):
    """The address of a server with the store, which this process uses; after the test, the store itself again."""
    with tracking_server(store) as address:
        mlflow.set_tracking_uri(address)
        yield address
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_a_run_on_a_server(server, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with mlflow.start_run() as active:
        for _ in range(2):
            mm.log_refit(measured(), 3, validation=measured(seed=1))
    run = find_run(active.info.run_id)
    assert refits.is_complete(run, 3, with_validation=True)
    assert len(run.step_images(names.DENSITY_IMAGE_KEY, 3)) == 1
    assert len(run.metric_series("gap/mean")) == 1
