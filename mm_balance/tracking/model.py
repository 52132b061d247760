"""The final model as an MLflow model: our own loader, safetensors, the recipe of its inputs, a card."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.utils import _save_example
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array, Map

import mm_balance
from mm_balance import names
from mm_balance.data import MultimodalData
from mm_balance.errors import UserError
from mm_balance.imports import outside_sources, python_files, sources_of_modules
from mm_balance.models.fusion import Fusion
from mm_balance.models.network import MultimodalNetwork
from mm_balance.serving import ModalityRecipe, modality_recipes, save_served_model
from mm_balance.serving.example import example_of
from mm_balance.tracking.runs import TrackedRun

REQUIREMENTS = (
    "mlflow", "torch", "torchvision", "numpy", "scikit-learn", "safetensors", "pandas", "pyarrow", "pillow", "soundfile", "librosa",
    "av", "threadpoolctl", "tqdm", "pyyaml",
)  # fmt: skip
CARD_FILE = "README.md"


def log_model(
    run: TrackedRun,
    model: MultimodalNetwork,
    data: MultimodalData,
    step: int,
    *,
    recipes: Mapping[str, ModalityRecipe] | None = None,
    card: str = "",
    register_as: str | None = None,
) -> str:
    """Log ``model`` to ``run`` and return its URI, ``models:/...``.

    The package source is stored with the model (without the embedded data), so that it loads where MM-Balance is not installed.
    The same holds for the sources of a head and of encoders from outside the package.

    Args:
        run: the run to log to.
        model: the network.
        data: the data that it was trained on.
        step: its epoch.
        recipes: modality -> how its inputs are made; None = unknown, then the model takes arrays only.
        card: what it is, in Markdown: description of the model, and of the registered version.
        register_as: name in the model registry, where it becomes a new version; None = it is not registered.
    """
    recipes = recipes or modality_recipes(data, None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / names.MODEL_NAME
        save_served_model(model, data.classes, recipes, folder, several_classes=data.several_classes)
        code = Path(temporary) / "code"
        package = Path(mm_balance.__file__).parent
        shutil.copytree(package, code / package.name, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
        outside = [*outside_sources(model.head.head, Fusion), *sources_of_modules(model.encoder_modules())]
        for source in dict.fromkeys(outside):
            for path in python_files(source):
                copy = code / path.relative_to(source.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        content = {
            "data_path": folder,
            "code_path": code,
            "signature": signature(tuple(data.specs), several_classes=data.several_classes),
            "example": input_example(recipes),
            "requirements": requirements(recipes, model.libraries()),
            "card": card,
            # MLflow would load the model in this process and predict the example, which takes as long as everything else.
            "validate_serving_input": False,
        }
        return run.log_model_folder(
            _Flavor, names.MODEL_NAME, step, description=card, register_as=register_as, **content
        )


class _Flavor:
    """Write the model's folder for ``TrackedRun.log_model_folder``.

    ``mlflow.pyfunc.save_model`` writes the same files, but first scans every installed package to compare the requirements with the
    installed versions they were just read from, which took as long as everything else.
    """

    @staticmethod
    def save_model(
        path: str,
        mlflow_model: Model,
        *,
        data_path: Path,
        code_path: Path,
        signature: ModelSignature,
        example: pd.DataFrame | None,
        requirements: list[str],
        card: str,
        validate_serving_input: bool,
    ) -> None:
        folder = Path(path)
        shutil.copytree(data_path, folder / "data" / data_path.name)
        shutil.copytree(code_path, folder / "code")
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
        (folder / CARD_FILE).write_text(card, "utf-8")
        _save_example(mlflow_model, example, path)
        mlflow_model.signature = signature
        mlflow.pyfunc.add_to_model(
            mlflow_model,
            loader_module="mm_balance.tracking.served_model",
            data=f"data/{data_path.name}",
            code="code",
            conda_env="conda.yaml",
            python_env="python_env.yaml",
        )
        mlflow_model.save(str(folder / "MLmodel"))


def signature(modalities: tuple[str, ...], *, several_classes: bool = False) -> ModelSignature:
    """Return the signature: a column per modality, whose cells may be of several types, and the columns of an answer."""
    inputs = [ColSpec(AnyType(), name) for name in modalities]
    alone = [
        ColSpec(kind, f"{what}_{name}")
        for name in modalities
        for what, kind in (("class", DataType.string), ("probability", DataType.double))
    ]
    every = [
        ColSpec(Map(DataType.double), name) for name in ("probabilities", *(f"probabilities_{m}" for m in modalities))
    ]
    several = ("classes", *(f"classes_{name}" for name in modalities)) if several_classes else ()
    outputs = [
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.double, "probability"),
        *alone,
        *(ColSpec(Array(DataType.string), name) for name in several),
        *every,
        ColSpec(DataType.double, "disagreement"),
        ColSpec(DataType.boolean, "modalities_disagree"),
        ColSpec(DataType.string, "warning"),
    ]
    return ModelSignature(inputs=Schema(list(inputs)), outputs=Schema(list(outputs)))


def requirements(recipes: Mapping[str, ModalityRecipe], libraries: Sequence[str] = ()) -> list[str]:
    """Return what must be installed to predict, in the versions that are installed now.

    Args:
        recipes: modality -> how its inputs are made.
        libraries: optional libraries that the encoders come from.
    """
    resamplers = {recipe.decoding.resampler for recipe in recipes.values() if recipe.decoding is not None}
    packages = [*REQUIREMENTS, *(["resampy"] if "kaiser_best" in resamplers else []), *libraries]
    return [f"{package}=={version(package).split('+')[0]}" for package in packages]


def input_example(recipes: Mapping[str, ModalityRecipe]) -> pd.DataFrame | None:
    """Return a table with one made-up sample, as text that can be posted to a server; None if the model takes arrays only."""
    cells = {name: example_of(recipe) for name, recipe in recipes.items()}
    return pd.DataFrame([cells]) if all(cells.values()) else None


def load_network(run: TrackedRun) -> tuple[MultimodalNetwork, int]:
    """Return the network that ``run`` logged last, and its epoch.

    Raises:
        UserError: the run has no model, or it cannot be loaded.
    """
    latest = run.latest_model()
    if latest is None:
        raise UserError(f"run {run.run_id} has no model; give a finished run of warmup, adaptive, train or main")
    uri, step = latest
    before = list(sys.path)
    try:
        loaded = mlflow.pyfunc.load_model(run.model_place(uri))
    except (MlflowException, OSError) as error:
        raise UserError(f"the model of run {run.run_id} cannot be loaded: {str(error).splitlines()[0]}") from error
    finally:
        # MLflow puts the model's copy of the code first. What is imported after this should be the user's own, which may be newer.
        sys.path[:] = [*before, *(path for path in sys.path if path not in before)]
    return loaded.get_raw_model(), step
