"""Completion of a configuration: presets fill in what was not given, and an explicit value always wins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mm_balance.config.option import AUTO, MethodOptions, Option, declared_in
from mm_balance.config.parameters import GROUPS, Config, options
from mm_balance.config.parse import did_you_mean, format_value, parse_method_options, parse_value
from mm_balance.config.study import study_options
from mm_balance.errors import UserError

PRESETS = resources.files("mm_balance") / "presets"
QUICK, MANIFEST = "quick", "manifest"


def resolve(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Config:
    """Return the complete configuration: given values, then the preset, then declared defaults.

    Args:
        given: parameter -> typed value, as ``parse_arguments`` returns them; ``auto`` = not given.
        defaults: a command's defaults where they differ from the declared ones.

    Raises:
        UserError: unknown preset, a value in it that is not allowed, or incompatible values.
    """
    return validate(apply_preset(given, defaults))


def apply_preset(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return given values, then the preset, then defaults, by name: the input of ``validate``.

    Method options that are also parameters may be given in ``method_options`` instead; both set the same value.

    Raises:
        UserError: unknown preset, a value in it that is not allowed, or an option that is given twice.
    """
    declared = options()
    chosen = {name: value for name, value in given.items() if value != AUTO}
    values = {name: option.unset for name, option in declared.items()} | dict(defaults or {})
    preset = read_preset(chosen.get("preset", AUTO))
    values |= read_preset((values | preset | chosen)["dataset"], of_dataset=True) | preset
    values = {name: value for name, value in values.items() if name in declared} | chosen
    method = values["method"]
    method_groups = {group for group, members in GROUPS.items() if issubclass(members, MethodOptions)}
    if method in method_groups and values["method_options"]:
        parsed = parse_method_options(method, declared_in(GROUPS[method], method), values["method_options"])
        for name, value in parsed.items():
            if "method_options" in chosen and chosen.get(name, value) != value:
                raise UserError(
                    f"{name} is given twice: {name}={format_value(chosen[name])}, and {format_value(value)} in method_options"
                )
        values |= {name: value for name, value in parsed.items() if name not in chosen}
    if misplaced := [name for name in chosen if declared[name].group in method_groups - {method}]:
        raise UserError(
            f"{misplaced[0]} is an option of {declared[misplaced[0]].group}, not of method={method}, whose own options go "
            "into method_options"
        )
    return values


def validate(values: Mapping[str, Any]) -> Config:
    """Return the configuration of ``values``, with derived values set and everything checked.

    Raises:
        UserError: a value is missing, or values are incompatible.
    """
    values = dict(values)
    declared = options()
    if values["adaptive_learning_rate"] == AUTO:
        values["adaptive_learning_rate"] = values["learning_rate"]
    if values["dataset"].endswith(".csv"):
        # Absolute, because a run may be continued or evaluated from another folder.
        values["dataset"] = str(Path(values["dataset"]).expanduser().resolve())
    config = Config.of(values)
    missing = [name for name, value in config.values().items() if value == AUTO and not declared[name].machine]
    if missing:
        raise UserError(
            f"the preset {config.run.preset} of {config.data.dataset} does not set {', '.join(missing)}; give a value"
        )
    _check(config)
    return config


def restore(saved: Mapping[str, Any]) -> Config:
    """Restore the configuration that a run saved as ``config.json``.

    Parameters that did not exist when it was saved get their defaults.

    Raises:
        UserError: it contains parameters that this version does not know.
    """
    if unknown := [name for name in saved if name not in options()]:
        raise UserError(
            f"the run was made by another version of MM-Balance, with {', '.join(unknown)}, unknown here; use that version"
        )
    # All values are saved, and the preset file may be gone.
    return resolve({**saved, "preset": AUTO}).replace(preset=saved["preset"])


def read_preset(preset: str, *, of_dataset: bool = False) -> dict[str, Any]:
    """Read the values of a preset, by parameter name, of runs and studies.

    Args:
        preset: ``auto`` (none beyond the data set's), ``quick``, or the path of a YAML file; with ``of_dataset``, a data set.
        of_dataset: read the preset of a data set: the file of its name, or ``manifest.yaml`` for a manifest.

    Raises:
        UserError: no such file, not a mapping, an unknown parameter, or a value that is not allowed.
    """
    if of_dataset:
        file = PRESETS / f"{MANIFEST if preset.endswith('.csv') else preset}.yaml"
        if not file.is_file() or preset in (QUICK, MANIFEST):
            raise UserError(
                f"dataset={preset} is not known; give {', '.join(_datasets())} or the path of a manifest.csv"
                f"{did_you_mean(preset, _datasets())}"
            )
        return _read(file.read_text("utf-8"), file.name)
    if preset == AUTO:
        return {}
    if preset == QUICK:
        return _read((PRESETS / f"{QUICK}.yaml").read_text("utf-8"), f"{QUICK}.yaml")
    path = Path(preset).expanduser()
    if not path.is_file():
        raise UserError(f"preset={preset}: no such file; give auto, {QUICK} or the path of a YAML file")
    return _read(path.read_text("utf-8"), str(path))


def _datasets() -> list[str]:
    """Return the data sets that have a preset of their own."""
    stems = (file.name.removesuffix(".yaml") for file in PRESETS.iterdir() if file.name.endswith(".yaml"))
    return sorted(name for name in stems if name not in (QUICK, MANIFEST))


def _read(text: str, where: str) -> dict[str, Any]:
    declared: dict[str, Option] = {**options(), **study_options()}
    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: a preset is a mapping of parameter to value")
    for name in map(str, loaded):
        if name not in declared:
            raise UserError(f"{where} sets {name}, which is not a parameter{did_you_mean(name, tuple(declared))}")
        if declared[name].machine and declared[name].reference:
            raise UserError(f"{where} sets {name}, which belongs on the command line")
    try:
        values = {name: parse_value(declared[name], format_value(value)) for name, value in loaded.items()}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return {name: value for name, value in values.items() if value != AUTO}


def _check(config: Config) -> None:
    loss, run = config.gap_mixture, config.run
    if loss.anneal == "exponential" and (loss.anneal_end <= 0 or loss.anneal_start <= 0):
        raise UserError("anneal=exponential needs anneal_start and anneal_end above 0")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", run.device):
        raise UserError(f"device={run.device} is not known; give auto, cpu, cuda or cuda:N")
    names = config.data.modalities.split(",")
    if (
        len(set(names)) != len(names)
        or len(names) < 2
        or not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    ):
        raise UserError(
            f"modalities={config.data.modalities} does not name two or more different columns; write them like audio,visual"
        )
    if run.precision == "float16" and run.device == "cpu":
        raise UserError("precision=float16 needs a CUDA device; use float32 or bfloat16 on cpu")
