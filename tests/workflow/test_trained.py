"""Any finished stage can be evaluated: by its logged model, or, nested in `main`, from its checkpoint. What is registered."""

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from mm_balance.config import resolve
from mm_balance.errors import UserError
from mm_balance.testing import tiny_data
from mm_balance.workflow.plans import adaptive_plan, warmup_plan
from mm_balance.workflow.provenance import expected_settings, fingerprint
from tests.helpers.commands import QUICK, by_stage, do, newest, runs

pytestmark = pytest.mark.usefixtures("signals")


@pytest.fixture(scope="module")
def recipe(shared_store):
    """The runs of `main`, whose second stage is another method, and has its best epoch selected."""
    assert do("main", f"{QUICK} method=mmpareto selection=best_validation register_as=pairs") == 0
    return by_stage()


@pytest.mark.slow
def test_nested_stages_are_evaluated_from_their_checkpoints(recipe):
    for stage in ("warmup", "adaptive"):
        trained = recipe[stage]
        assert not trained.outputs.model_outputs
        assert do("evaluate", f"run_id={trained.info.run_id} split=val device=cpu") == 0
        found = newest(evaluated_run=trained.info.run_id).data.metrics
        # The parent has the metrics of the epoch that was selected.
        expected = recipe["main" if stage == "adaptive" else stage].data.metrics
        for name in ("val/accuracy", "val/accuracy_audio", "val/accuracy_visual", "val/loss"):
            assert found[name] == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.slow
def test_a_stage_without_weights_is_refused(recipe, capsys):
    run = recipe["warmup"].info.run_id
    MlflowClient().set_terminated(run, "KILLED")
    assert do("evaluate", f"run_id={run}") == 1
    assert "has not finished (status KILLED); resume it first" in capsys.readouterr().err
    MlflowClient().set_terminated(run, "FINISHED")
    assert do("evaluate", f"run_id={recipe['evaluate'].info.run_id}") == 1
    assert "mm-balance: error" in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_of_main_is_registered_and_has_a_card_and_the_metrics_of_its_epoch(recipe):
    client, main = MlflowClient(), recipe["main"]
    (output,) = main.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    (version,) = client.search_model_versions("name='pairs'")
    assert version.source == f"models:/{output.model_id}"
    card = model.tags["mlflow.note.content"]
    assert card == version.description
    assert "one of 10 classes from `audio`, `visual`, trained on `digits`" in card
    accuracy = main.data.metrics["val/accuracy"]
    assert f"Validation accuracy after epoch {output.step}: fused **{100 * accuracy:.1f} %**, audio" in card
    assert f'mlflow.pyfunc.load_model("runs:/{main.info.run_id}/model")' in card
    assert "- `visual`: a picture of 36 x 36 pixels, white on black, gray" in card
    found = {item.key: item for item in model.metrics}
    assert (found["val/accuracy"].value, found["val/accuracy"].step) == (accuracy, output.step)
    assert found["val/accuracy_audio"].dataset_name == "digits"
    assert found["test/accuracy"].value == main.data.metrics["test/accuracy"]  # sent by the evaluation
    assert mlflow.pyfunc.load_model("models:/pairs/1").predict({"audio": [], "visual": []}).empty
    series = client.get_metric_history(recipe["adaptive"].info.run_id, "val/accuracy")
    assert len(series) == len({point.step for point in series})  # nothing twice on the run


@pytest.mark.slow
def test_the_name_may_change_when_a_run_is_continued(store):
    assert do("train", f"{QUICK} epochs=1") == 0
    run = newest(stage="train").info.run_id
    assert not MlflowClient().search_registered_models()
    assert do("train", f"resume_run={run} epochs=2 register_as=later") == 0
    (version,) = MlflowClient().search_model_versions("name='later'")
    model = MlflowClient().get_logged_model(version.source.removeprefix("models:/"))
    assert {item.key: item.step for item in model.metrics}["val/accuracy"] == 2
    assert len(runs(stage="train")) == 1


def test_the_name_is_no_part_of_any_digest():
    data = tiny_data()
    configs = [resolve({"device": "cpu", **given}) for given in ({}, {"register_as": "pairs"})]
    for plan in (warmup_plan, adaptive_plan):
        assert len({expected_settings(plan(config), data, after_warmup=False) for config in configs}) == 1
    assert len({fingerprint(config, data) for config in configs}) == 1


@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_a_name_that_no_registry_takes_is_refused_before_training(name):
    with pytest.raises(UserError, match="a name in MLflow's registry has no / and no :"):
        resolve({"register_as": name})
