"""A logged model, loaded as those who have nothing but MLflow load it."""

import sys

import mlflow
import numpy as np

from tests.helpers.processes import finished

CODE = """
import sys, numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
signature = {item.name: item.shape for item in model.metadata.get_input_schema().inputs}
batch = {name: np.zeros((5, *shape[1:]), dtype=item.type) for (name, shape), item in
         zip(signature.items(), model.metadata.get_input_schema().inputs)}
found = model.predict(batch)
assert set(found) == {"fused", "audio", "visual"}, found
assert all(value.shape == (5, 10) and np.allclose(value.sum(1), 1, atol=1e-5) for value in found.values())
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
    """It predicts probabilities of ten classes, by fusion and by modality."""
    model = mlflow.pyfunc.load_model(model_uri(run))
    inputs = model.metadata.get_input_schema().inputs
    found = model.predict({item.name: np.zeros((5, *item.shape[1:]), dtype=item.type) for item in inputs})
    assert set(found) == {"fused", "audio", "visual"}
    for value in found.values():
        assert value.shape == (5, 10)
        assert np.allclose(value.sum(1), 1, atol=1e-5)
