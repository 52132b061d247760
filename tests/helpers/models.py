"""A logged model, loaded as those who have nothing but MLflow load it."""

import sys

import mlflow
import numpy as np
import pandas as pd

from tests.helpers.processes import finished

SHAPES = {"audio": (1, 40, 64), "visual": (1, 36, 36)}
"""Inputs of a model of `digits`."""

CODE = """
import sys, numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
assert model.metadata.get_input_schema().input_names() == ["audio", "visual"]
found = model.predict({"audio": np.zeros((5, 1, 40, 64), np.float32), "visual": np.zeros((5, 1, 36, 36), np.float32)})
assert len(found) == 5 and set(found["class"]) <= set("0123456789"), found
for column in ("probabilities", "probabilities_audio", "probabilities_visual"):
    assert all(list(row) == list("0123456789") and abs(sum(row.values()) - 1) < 1e-5 for row in found[column])
assert all("audio: constant spectrogram" in text and "visual: constant picture" in text for text in found["warning"])
example = model.predict(model.input_example)
assert example["class"][0] in set("0123456789"), example
import mm_balance, pathlib
assert pathlib.Path(mm_balance.__file__).parts[-3] == "code", mm_balance.__file__
"""


def model_uri(run):
    return f"models:/{run.outputs.model_outputs[-1].model_id}"


def check_model_elsewhere(folder, run):
    """Without pickle, in a process that has no MM-Balance on its path, from the logged code alone."""
    done = finished(
        [sys.executable, "-c", CODE, model_uri(run)], folder, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false", PYTHONPATH=""
    )
    assert done.returncode == 0, done.stderr[-2000:]


def check_model(run):
    """It predicts probabilities of ten classes, by fusion and by modality, and warns of blank inputs."""
    model = mlflow.pyfunc.load_model(model_uri(run))
    assert model.metadata.get_input_schema().input_names() == list(SHAPES)
    found = model.predict(
        pd.DataFrame({name: list(np.zeros((5, *shape), np.float32)) for name, shape in SHAPES.items()})
    )
    assert len(found) == 5
    for column in ("probabilities", "probabilities_audio", "probabilities_visual"):
        rows = pd.DataFrame(found[column].tolist())
        assert rows.columns.tolist() == list("0123456789")
        assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)
    assert all("audio: constant" in text and "visual: constant" in text for text in found["warning"])
