"""A logged model behind MLflow's interface: tables, the scoring server's JSON, registry, page, files."""

import base64
import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from mlflow.tracking import MlflowClient

from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import UserError
from mm_balance.models import MultimodalNetwork
from mm_balance.serving import modality_recipes
from mm_balance.testing import tiny_data
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.model import log_model
from mm_balance.tracking.runs import ModelOnData
from tests.helpers.manifests import OPTIONS, NoisyFolder, files_of, seen

CARD = "**A model** of cats and dogs."


@pytest.fixture(scope="module")
def logged(shared_store):
    """A data set of files, and the URI of a model of it."""
    folder = NoisyFolder(shared_store).fill()
    data = folder.load()
    torch.manual_seed(0)
    model = MultimodalNetwork(data.specs, len(data.classes), encoder="resnet_narrow", fusion="concat")
    run = open_run("some run")
    return (
        folder,
        data,
        run,
        log_model(run, model, data, 3, recipes=modality_recipes(data, OPTIONS), card=CARD, register_as="pets"),
    )


@pytest.fixture(scope="module")
def loaded(logged):
    return mlflow.pyfunc.load_model(logged[-1])


def table(folder, data):
    return pd.DataFrame({name: list(map(str, files_of(data, folder, "test", name))) for name in data.specs})


def test_a_table_of_files_keeps_its_index_and_may_have_more_columns(logged, loaded):
    folder, data, *_ = logged
    given = table(folder, data).assign(note="x")
    given.index = ["first", "second"]
    found = loaded.predict(given)
    assert found.index.tolist() == ["first", "second"]
    assert found.columns[:6].tolist() == [
        "class", "probability", "class_audio", "probability_audio", "class_visual", "probability_visual"
    ]  # fmt: skip
    assert found.columns.tolist() == loaded.metadata.get_output_schema().input_names()
    assert set(found["class"]) <= {"cat", "dog"}


def test_arrays_files_and_dictionaries_of_lists_give_the_same(logged, loaded):
    folder, data, *_ = logged
    files = table(folder, data)
    inputs = {name: value.numpy() for name, value in seen(data.splits["test"]).items()}
    expected = loaded.predict(files)["probability"].to_numpy()
    for given in (
        pd.DataFrame({name: list(value) for name, value in inputs.items()}),
        inputs,  # MLflow turns these arrays into nested lists
        files.to_dict("list"),  # and these lists into a single row
    ):
        assert loaded.predict(given)["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    one = loaded.predict(files.iloc[:1].to_dict("list"))["probability"].to_numpy()
    assert one == pytest.approx(expected[:1], abs=1e-6)


def posted(loaded, **body):
    """What the scoring server answers to a body of JSON."""
    answer = invocations(json.dumps(body), "application/json", loaded, loaded.metadata.get_input_schema())
    return json.loads(answer.response)["predictions"]


def test_the_server_takes_paths_and_bytes_as_json(logged, loaded):
    folder, data, *_ = logged
    files = table(folder, data)
    text = {
        name: [f"data:;base64,{base64.b64encode(Path(path).read_bytes()).decode()}" for path in column]
        for name, column in files.items()
    }
    rows = loaded.predict(files).to_dict("records")
    assert posted(loaded, dataframe_split=files.to_dict("split")) == rows
    assert posted(loaded, dataframe_records=pd.DataFrame(text).to_dict("records")) == rows
    assert posted(loaded, inputs=text) == rows


def test_an_input_that_cannot_be_used_is_the_client_s_mistake(logged, loaded):
    folder, data, *_ = logged
    given = table(folder, data)
    given.loc[1, "audio"] = "missing.wav"
    with pytest.raises(MlflowException, match=r"row 1, column audio \(missing.wav\): cannot be read") as error:
        loaded.predict(given)
    assert error.value.get_http_status_code() == 400


def test_the_example_is_predicted_as_it_would_be_posted(logged, loaded):
    assert loaded.predict(loaded.input_example)["class"][0] in ("cat", "dog")
    folder = Path(mlflow.artifacts.download_artifacts(logged[-1]))
    assert posted(loaded, **json.loads((folder / "serving_input_example.json").read_text()))[0]["class"] in (
        "cat",
        "dog",
    )


def test_the_model_holds_no_pickle_and_says_how_its_inputs_are_made(logged):
    folder = Path(mlflow.artifacts.download_artifacts(logged[-1]))
    endings = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not endings & {".pkl", ".pt", ".pth", ".bin"}
    assert (folder / "README.md").read_text() == CARD
    inputs = json.loads((folder / "data" / "model" / "inputs.json").read_text())["modalities"]
    assert inputs["audio"]["decoding"]["audio"] == "logmel64"
    assert inputs["visual"]["view"]["size"] == 8
    assert json.loads((folder / "data" / "model" / "description.json").read_text())["classes"] == ["cat", "dog"]


def test_the_registered_version_is_the_model_and_has_its_card(logged):
    _, _, run, uri = logged
    client = MlflowClient()
    (version,) = client.search_model_versions("name='pets'")
    assert (str(version.version), version.description) == ("1", CARD)
    assert version.source == uri
    assert client.get_logged_model(uri.removeprefix("models:/")).tags["mlflow.note.content"] == CARD
    assert mlflow.pyfunc.load_model("models:/pets/1").metadata.model_id == uri.removeprefix("models:/")
    again = run.register_model(uri, "pets", "Better.", alias="champion")
    assert str(client.get_model_version_by_alias("pets", "champion").version) == again == "2"
    with pytest.raises(UserError, match=r"register_as=a/b: .*; the model is logged: models:/m-"):
        run.register_model(uri, "a/b", "")


def test_metrics_about_a_model_are_on_its_page_with_the_data_and_once_on_the_run(logged):
    _, data, run, uri = logged
    point = MetricPoint(7, 1_000, {"val/accuracy": 0.5})
    run.log_points([point])
    run.log_points([point], ModelOnData(uri, data))
    assert run.metric_series("val/accuracy") == [(7, 0.5)]
    (metric,) = MlflowClient().get_logged_model(uri.removeprefix("models:/")).metrics
    assert (metric.key, metric.value, metric.step) == ("val/accuracy", 0.5, 7)
    assert (metric.dataset_name, metric.dataset_digest) == (data.name, data.digest[:36])


def test_a_model_of_data_without_files_takes_arrays_and_warns(shared_store):
    data = tiny_data()
    model = MultimodalNetwork(data.specs, len(data.classes), encoder="resnet_narrow", fusion="concat")
    loaded = mlflow.pyfunc.load_model(log_model(open_run("arrays"), model, data, 1))
    found = loaded.predict({name: np.zeros((2, 1, 8, 8), np.float32) for name in data.specs})
    assert (
        found["warning"].tolist()
        == ["audio: constant picture: nothing to recognize; visual: constant picture: nothing to recognize"] * 2
    )
    with pytest.raises(MlflowException, match="only a prepared array"):
        loaded.predict(pd.DataFrame({"audio": ["a.wav"], "visual": ["a.png"]}))
    assert loaded.input_example is None
