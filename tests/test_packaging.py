"""MLproject, conda.yaml and pyproject.toml say the same as the code."""

import tomllib
from pathlib import Path

import yaml

import mm_balance
from mm_balance.config import ENTRY_POINTS, entry_point_options
from mm_balance.config.mlproject import mlproject

ROOT = Path(__file__).parent.parent


def test_mlproject_is_the_generated_one():
    assert (ROOT / "MLproject").read_text("utf-8") == mlproject(), "run `make mlproject`"


def test_mlproject_passes_every_parameter():
    spec = yaml.safe_load((ROOT / "MLproject").read_text("utf-8"))
    assert set(spec["entry_points"]) == set(ENTRY_POINTS)
    for name, entry in spec["entry_points"].items():
        declared = entry_point_options(name)
        assert list(entry["parameters"]) == list(declared)
        for parameter in declared:
            assert f"--{parameter} {{{parameter}}}" in entry["command"]
        assert entry["command"].startswith(f"python -m entrypoints.{name} ")


def test_conda_and_pyproject_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text("utf-8"))
    pip = next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    assert pip == project["dependencies"]
    assert project["version"] == mm_balance.__version__


def test_mlflow_can_read_conda_yaml_without_conda():
    from mlflow.utils.environment import _PythonEnv

    found = _PythonEnv.from_conda_yaml(str(ROOT / "conda.yaml"))
    assert found.python.startswith("3.11")
    assert any(item.startswith("torch>=") for item in found.dependencies)
