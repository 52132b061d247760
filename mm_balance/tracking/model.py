"""The final model as an MLflow model: our own loader, safetensors, a signature of named arrays."""

from __future__ import annotations

import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

import mm_balance
from mm_balance import names
from mm_balance.data import MultimodalData
from mm_balance.errors import UserError
from mm_balance.imports import outside_sources, python_files
from mm_balance.models.fusion import Fusion
from mm_balance.models.network import MultimodalNetwork
from mm_balance.models.serving import save_model
from mm_balance.tracking.runs import TrackedRun

REQUIREMENTS = ("mlflow", "torch", "torchvision", "numpy", "scikit-learn", "safetensors")


def log_model(run: TrackedRun, model: MultimodalNetwork, data: MultimodalData, step: int) -> str:
    """Log ``model`` to ``run`` and return its URI, ``models:/...``.

    The package source is stored with the model (without the embedded data), so that it loads where MM-Balance is not installed.
    The same holds for the source of a head from outside the package.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / names.MODEL_NAME
        save_model(model, data.classes, folder)
        code = Path(temporary) / "code"
        package = Path(mm_balance.__file__).parent
        shutil.copytree(package, code / package.name, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
        for source in outside_sources(model.head.head, Fusion):
            for path in python_files(source):
                copy = code / path.relative_to(source.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        content = {"data_path": folder, "code_path": code, "signature": signature(data)}
        return run.log_model_folder(_Flavor, names.MODEL_NAME, step, **content)


class _Flavor:
    """Write the model's folder for ``TrackedRun.log_model_folder``.

    ``mlflow.pyfunc.save_model`` writes the same files, but first scans every installed package to compare the requirements with the
    installed versions they were just read from, which took as long as everything else.
    """

    @staticmethod
    def save_model(
        path: str, mlflow_model: Model, *, data_path: Path, code_path: Path, signature: ModelSignature
    ) -> None:
        folder = Path(path)
        shutil.copytree(data_path, folder / "data" / data_path.name)
        shutil.copytree(code_path, folder / "code")
        requirements = [f"{package}=={version(package).split('+')[0]}" for package in REQUIREMENTS]
        python = platform.python_version()
        conda = {
            "name": "mlflow-env",
            "channels": ["conda-forge"],
            "dependencies": [f"python={python}", "pip", {"pip": requirements}],
        }
        environment = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
        (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", "utf-8")
        (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False), "utf-8")
        (folder / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False), "utf-8")
        mlflow_model.signature = signature
        mlflow.pyfunc.add_to_model(
            mlflow_model,
            loader_module="mm_balance.models.serving",
            data=f"data/{data_path.name}",
            code="code",
            conda_env="conda.yaml",
            python_env="python_env.yaml",
        )
        mlflow_model.save(str(folder / "MLmodel"))


def signature(data: MultimodalData) -> ModelSignature:
    """Return the signature: inputs are one array per modality, outputs class probabilities, fused and per modality."""
    split = next(iter(data.splits.values()))
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(split.inputs[name].numpy().dtype, (-1, *spec.shape), name) for name, spec in data.specs.items()
    ]
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype("float32"), (-1, len(data.classes)), name) for name in ("fused", *data.specs)
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def load_network(run: TrackedRun) -> tuple[MultimodalNetwork, int]:
    """Return the network that ``run`` logged last, and its epoch.

    Raises:
        UserError: the run has no model, or it cannot be loaded.
    """
    latest = run.latest_model()
    if latest is None:
        raise UserError(
            f"run {run.run_id} has no model; give a finished run of warmup, adaptive, train or main (not a nested one)"
        )
    uri, step = latest
    try:
        loaded = mlflow.pyfunc.load_model(uri)
    except (MlflowException, OSError) as error:
        raise UserError(f"the model of run {run.run_id} cannot be loaded: {str(error).splitlines()[0]}") from error
    return loaded.get_raw_model(), step
