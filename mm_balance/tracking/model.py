"""The finished model as an MLflow model: our own loader, safetensors, a signature of named arrays."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, Schema, TensorSpec

import mm_balance
from mm_balance import names
from mm_balance.data import MultimodalData
from mm_balance.errors import UserError
from mm_balance.models.network import MultimodalNetwork
from mm_balance.models.serving import save_model
from mm_balance.tracking.runs import TrackedRun

REQUIREMENTS = ("torch", "torchvision", "numpy", "scikit-learn", "safetensors")


def log_model(run: TrackedRun, model: MultimodalNetwork, data: MultimodalData, step: int) -> str:
    """Log ``model`` to ``run``; its URI, ``models:/...``.

    The package's source travels with the model (without the embedded data), so that it loads where MM-Balance is not
    installed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / names.MODEL_NAME
        save_model(model, data.classes, folder)
        source = Path(mm_balance.__file__).parent
        code = Path(temporary) / "mm_balance"
        shutil.copytree(source, code, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
        with warnings.catch_warnings():
            # An input example would be stored with every run and run through the model once more; the signature says enough.
            warnings.filterwarnings("ignore", message=".*input example was not provided.*")
            info = _log(run, folder, code, data, step)
    return info.model_uri


def _log(run: TrackedRun, folder: Path, code: Path, data: MultimodalData, step: int) -> ModelInfo:
    return Model.log(
        artifact_path=None,
        flavor=mlflow.pyfunc,
        name=names.MODEL_NAME,
        run_id=run.run_id,
        step=step,
        loader_module="mm_balance.models.serving",
        data_path=str(folder),
        code_paths=[str(code)],
        pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in REQUIREMENTS],
        signature=signature(data),
    )


def signature(data: MultimodalData) -> ModelSignature:
    """Inputs: one array per modality; outputs: class probabilities, fused and per modality."""
    split = next(iter(data.splits.values()))
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(split.inputs[name].numpy().dtype, (-1, *spec.shape), name) for name, spec in data.specs.items()
    ]
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype("float32"), (-1, len(data.classes)), name) for name in ("fused", *data.specs)
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def load_network(run: TrackedRun) -> tuple[MultimodalNetwork, int]:
    """The network that ``run`` logged last, and the epoch it is from.

    Raises:
        UserError: the run has logged no model, or it cannot be loaded.
    """
    outputs = run.read().outputs
    models = outputs.model_outputs if outputs is not None else []
    if not models:
        raise UserError(
            f"run {run.run_id} has logged no model; give a finished run of warmup, adaptive or main (not a nested one)"
        )
    latest = max(models, key=lambda item: item.step)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{latest.model_id}")
    except (MlflowException, OSError) as error:
        raise UserError(f"the model of run {run.run_id} cannot be loaded: {str(error).splitlines()[0]}") from error
    return loaded.get_raw_model(), latest.step
