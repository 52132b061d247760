"""MLproject, conda.yaml and pyproject.toml say the same as the code."""

import re
import tomllib
from pathlib import Path

import yaml

import mm_balance
from mm_balance.commands import COMMANDS

ROOT = Path(__file__).parent.parent


def test_mlproject_declares_what_is_changed_most_and_leaves_every_choice_to_the_user():
    text = (ROOT / "MLproject").read_text("utf-8")
    spec = yaml.safe_load(text)
    assert list(spec["entry_points"]) == list(COMMANDS)
    for name, entry in spec["entry_points"].items():
        command = COMMANDS[name]
        assert list(entry.get("parameters", {})) == list(command.common)
        assert set(command.common) <= set(command.parameters)
        assert len(command.common) <= 12
        # MLflow passes every declared default on the command line: anything else than `auto` would count as chosen.
        assert all(item["default"] == "auto" for item in entry.get("parameters", {}).values())
        words = " ".join(f"--{parameter} {{{parameter}}}" for parameter in command.common)
        assert entry["command"].split() == f"python -m entrypoints.{name} {words}".split()
        for parameter in command.common:
            assert re.search(rf"^      {parameter}: .* # \S", text, re.MULTILINE), f"{parameter} has no comment"


def test_the_wheel_holds_the_package_and_what_mlflow_starts():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]["find"]
    assert found["include"] == ["mm_balance*", "entrypoints*"]


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
