"""Fill ``auto`` from the preset of the data set. An explicit value always wins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mm_balance.config.options import AUTO, Config, options
from mm_balance.config.parse import format_value, parse_value
from mm_balance.errors import UserError

_RESOLVED_LATER = ("data_dir", "preset", "device", "workers")
"""Parameters whose ``auto`` depends on the machine, not on the data set: they keep the word."""
_TUNED = ("model", "optimization", "warmup", "train", "stage2")
SEEN_BY_THE_NETWORK = (
    "train_fraction", "image_size", "frames", "frame_choice", "augment", "audio_normalization", "visual_normalization",
)  # fmt: skip
"""What decides, beside the data's digest, which numbers the network sees."""


def resolve(given: Mapping[str, Any]) -> Config:
    """The complete configuration: given values, then the preset, then declared defaults.

    Args:
        given: parameter -> typed value, as ``parse_arguments`` returns it. Missing parameters have their default.

    Raises:
        UserError: unknown preset, a preset that sets what it may not, or combinations that cannot work.
    """
    return finish(fill(given))


def fill(given: Mapping[str, Any]) -> dict[str, Any]:
    """Given values, then the preset, then declared defaults, by name: what ``finish`` makes a configuration of.

    Raises:
        UserError: unknown preset, or a preset that sets what it may not.
    """
    declared = options()
    defaults = {name: None if option.may_be_none else option.default for name, option in declared.items()}
    values: dict[str, Any] = defaults | dict(given)
    preset = read_preset(values["preset"], values["dataset"])
    # A preset may set a parameter that has a fixed default in one place only, its `tuned` part.
    return {name: preset.get(name, value) if value == defaults[name] else value for name, value in values.items()}


def finish(filled: Mapping[str, Any]) -> Config:
    """The configuration of filled values: what follows from others is set, and all is checked.

    Raises:
        UserError: a value that is missing, or combinations that cannot work.
    """
    values = dict(filled)
    if values["adaptive_learning_rate"] == AUTO:
        values["adaptive_learning_rate"] = values["learning_rate"]
    if values["balanced_fusion_weight"] == AUTO:
        values["balanced_fusion_weight"] = balanced_fusion_weight(values["loss_form"])
    missing = [name for name, value in values.items() if value == AUTO and name not in _RESOLVED_LATER]
    if missing:
        raise UserError(
            f"the preset {values['preset']} of {values['dataset']} does not set {', '.join(missing)}; give a value"
        )
    if values["dataset"].endswith(".csv"):
        # A run may be continued or evaluated from another folder.
        values["dataset"] = str(Path(values["dataset"]).expanduser().resolve())
    config = Config(**values)
    _check(config)
    return config


def balanced_fusion_weight(loss_form: str) -> float:
    """What ``balanced_fusion_weight=auto`` stands for: 1 in the one form that is defined by that term."""
    return 1.0 if loss_form == "abstract_v2" else 0.0


def restore(saved: Mapping[str, Any]) -> Config:
    """The configuration that a run saved as ``config.json``.

    Parameters that did not exist when it was saved have their defaults.

    Raises:
        UserError: it holds parameters that this version does not know.
    """
    if unknown := [name for name in saved if name not in options()]:
        raise UserError(
            f"the run was made by another version of MM-Balance, with {', '.join(unknown)}, which this one does not know"
        )
    # Its values are all there; the preset's file need not be.
    return replace(resolve({**saved, "preset": AUTO}), preset=saved["preset"])


def read_preset(preset: str, dataset: str) -> dict[str, Any]:
    """The values of a preset, by parameter name.

    ``auto`` is the file named after the data set (``manifest.yaml`` for a manifest); ``quick`` and any YAML path lie on
    top of it: what they do not set comes from there. A file of the user's may have a part ``tuned``, as studies write it,
    with parameters of training whose default is not ``auto``: it holds where a parameter still has its declared default.

    Raises:
        UserError: no such file, not a mapping, or a parameter that no preset may set.
    """
    name = "manifest" if dataset.endswith(".csv") else dataset
    folder = resources.files("mm_balance") / "presets"
    base = folder / f"{name}.yaml"
    if not base.is_file():
        raise UserError(
            f"dataset={dataset} is not known; give digits, cremad, ave, kinetics_sounds or the path of a manifest.csv"
        )
    values = _read(base.read_text("utf-8"), base.name)
    if preset == AUTO:
        return values
    if preset == "quick":
        return values | _read((folder / "quick.yaml").read_text("utf-8"), "quick.yaml")
    path = Path(preset).expanduser()
    if not path.is_file():
        raise UserError(f"preset={preset}: no such file; give auto, quick or the path of a YAML file")
    return values | _read(path.read_text("utf-8"), str(path))


def warmup_parameters() -> list[str]:
    """The parameters that decide what a warm-up run learns (data are identified by digest, beside these)."""
    named = {"encoder", "fusion", "modalities", "seed", "precision", "deterministic", *SEEN_BY_THE_NETWORK}
    return [name for name, option in options().items() if option.group in ("optimization", "warmup") or name in named]


def _read(text: str, where: str) -> dict[str, Any]:
    declared = options()
    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: a preset is a mapping of parameter to value")
    tuned = loaded.pop("tuned", {})
    if not isinstance(tuned, dict):
        raise UserError(f"{where}: tuned is a mapping of parameter to value")
    if wrong := [str(name) for name in tuned if name not in declared or declared[name].group not in _TUNED]:
        raise UserError(f"{where}: tuned sets {', '.join(wrong)}, which is no parameter of training")
    wrong = [str(name) for name in loaded if name not in declared or not declared[name].by_preset]
    if wrong:
        raise UserError(
            f"{where} sets {', '.join(wrong)}, which no preset may set (only parameters whose default is auto)"
        )
    return {name: parse_value(declared[name], format_value(value)) for name, value in (loaded | tuned).items()}


def _check(config: Config) -> None:
    if config.anneal == "exponential" and (config.anneal_end <= 0 or config.anneal_start <= 0):
        raise UserError("anneal=exponential needs anneal_start and anneal_end above 0")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"device={config.device} is not known; give auto, cpu, cuda or cuda:N")
    names = config.modalities.split(",")
    if (
        len(set(names)) != len(names)
        or len(names) < 2
        or not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    ):
        raise UserError(
            f"modalities={config.modalities} does not name two or more different columns; write them like audio,visual"
        )
    if config.precision == "float16" and config.device == "cpu":
        raise UserError("precision=float16 needs a CUDA device; use float32 or bfloat16 on cpu")
