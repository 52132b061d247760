"""From text to a configuration: values are parsed, completed from presets, and checked.

MLflow checks neither types, choices nor names, so everything is checked here. An explicit value always wins over a preset.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mm_balance.config.datasets import MANIFEST, NAMED_PRESETS, PRESETS, builder_path, builder_settings
from mm_balance.config.encoders import absolute_folder, absolute_weights, check_encoders
from mm_balance.config.option import AUTO, NONE, MethodOptions, Option, declared_in
from mm_balance.config.parameters import GROUPS, Config, options
from mm_balance.config.per_modality import by_modality, changed_values, chosen_modalities, scales_by_modality
from mm_balance.config.study import study_options
from mm_balance.errors import UserError, did_you_mean

LARGEST_WHOLE = 2**31 - 1
LARGEST_NUMBER = 3.4e38
"""What 32 bits hold, of PyTorch's numbers and of those of every library below it."""
SHOWN = 60
"""Characters of a value in a message."""


def parse_value(option: Option, text: str) -> Any:
    """Parse ``text`` as a value of ``option``.

    Returns:
        A value of ``option.type``; ``"auto"`` if it is given and allowed; ``None`` for an allowed ``none``.

    Raises:
        UserError: not a number, not finite, out of range, not a choice, or empty; the message names the parameter,
            the value and what is allowed.
    """
    text = text.strip()
    if text == AUTO and option.default == AUTO:
        return AUTO
    if text == NONE and option.may_be_none:
        return None
    if not text:
        raise UserError(f"{option.name} is empty; {_allowed(option)}")
    shown = _shortened(text)
    if option.type is str:
        if option.choices and text not in option.choices:
            raise UserError(
                f"{option.name}={shown} is not known; {_allowed(option)}{did_you_mean(shown, option.choices)}"
            )
        return text
    if option.type is bool:
        if text not in ("true", "false"):
            raise UserError(f"{option.name}={shown} is neither true nor false")
        return text == "true"
    largest = LARGEST_WHOLE if option.type is int else LARGEST_NUMBER
    try:
        value = option.type(text)
    except ValueError:
        raise UserError(f"{option.name}={shown} is not {_noun(option)}; {_allowed(option)}") from None
    if not abs(value) <= largest or not _in_range(option, value):  # neither is NaN
        bound = "" if option.maximum is not None or value != value else f" (at most {largest:.10g})"
        raise UserError(f"{option.name}={shown} is out of range; {_allowed(option)}{bound}")
    return value


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def format_value(value: Any) -> str:
    """Format a value as on the command line; floats exactly, in decimal notation, never with an exponent."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = format(Decimal(repr(float(value))), "f") if math.isfinite(value) else repr(float(value))
        return text if "." in text or not math.isfinite(value) else f"{text}.0"
    return str(value)


def parse_arguments(
    command: str,
    arguments: Sequence[str],
    declared: Mapping[str, Option],
    *,
    help: str,
    common: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    epilog: str = "",
) -> dict[str, Any]:
    """Return the values given on the command line, by parameter name; ``auto`` counts as not given.

    Args:
        command: its name.
        arguments: command-line arguments, without the program's name.
        declared: the parameters that it accepts.
        help: one sentence about it.
        common: names of the most used parameters; ``--help`` lists them first.
        defaults: the command's defaults where they differ from the declared ones.
        epilog: text of ``--help`` below the parameters.

    Raises:
        UserError: an unknown parameter, or a bad value.
    """
    program = f"python -m entrypoints.{command}"
    parser = _Parser(
        prog=program,
        usage=f"{program} [--PARAMETER VALUE ...]",
        description=f"{help} As a project: mlflow run . --env-manager local -e {command} -P PARAMETER=VALUE ...",
        epilog=epilog,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=120),
    )
    for title, members in _help_groups(declared, common).items():
        group = parser.add_argument_group(title)
        for option in members:
            group.add_argument(
                f"--{option.name}",
                metavar="VALUE",
                help=_help_line(option, (defaults or {}).get(option.name, option.unset)).replace("%", "%%"),
            )
    given, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-")
        raise UserError(f"unknown parameter `{name}` of {command}{did_you_mean(name, tuple(declared))}")
    texts = {name: text for name, text in vars(given).items() if text.strip() != AUTO}
    return {name: parse_value(option, texts[name]) for name, option in declared.items() if name in texts}


def _help_groups(declared: Mapping[str, Option], common: Sequence[str]) -> dict[str, list[Option]]:
    """Heading -> parameters: the most used ones first, then group by group."""
    groups = {"common parameters": [declared[name] for name in common]} if common else {}
    for name, option in declared.items():
        if name not in common:
            groups.setdefault(option.title, []).append(option)
    return groups


def _help_line(option: Option, default: Any) -> str:
    """Help text, choices and default."""
    choices = f" ({'|'.join(option.choices)})" if option.choices else ""
    return f"{option.help}{choices} [{format_value(default)}]"


def parse_method_options(method: str, declared: Mapping[str, Option], text: str | None) -> dict[str, Any]:
    """Parse ``name=value,name=value``, the options of ``method``, into typed values.

    Raises:
        UserError: an option is unknown, given twice, has no value, or one that is not allowed.
    """
    values: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator:
            raise UserError(f"method_options: {name!r} has no value; write name=value,name=value")
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise UserError(
                f"method_options: {method} has no option {name!r}{did_you_mean(name, tuple(declared))}; it has: {known}"
            )
        if name in values:
            raise UserError(f"method_options: {name} is given twice")
        values[name] = parse_value(declared[name], value)
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            sys.stderr.write(message)
        raise SystemExit(status)


def _in_range(option: Option, value: float) -> bool:
    if option.minimum is not None and (value < option.minimum or (option.exclusive and value == option.minimum)):
        return False
    return option.maximum is None or value <= option.maximum


def _noun(option: Option) -> str:
    return {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}[option.type]


def _allowed(option: Option) -> str:
    if option.choices:
        allowed = "one of " + ", ".join(option.choices)
    elif option.type is str:
        allowed = "a value"
    else:
        allowed = _noun(option)
        if option.minimum is not None:
            allowed += f" {'above' if option.exclusive else 'of at least'} {option.minimum:g}"
        if option.maximum is not None:
            allowed += f"{',' if option.minimum is not None else ''} at most {option.maximum:g}"
    if option.default in (AUTO, NONE):
        allowed += f", or {option.default}"
    return f"give {allowed}"


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
    dataset = (values | preset | chosen)["dataset"]
    values |= read_preset(dataset, of_dataset=True)
    # Of a run that is restored, everything is known and its function may be gone.
    if any(name not in chosen and not option.machine for name, option in declared.items()):
        values |= _checked(builder_settings(dataset), f"the settings of dataset={dataset}")
    values |= preset
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
    modalities = values["modalities"].split(",")
    values["encoder"] = changed_values(values["encoder"], modalities, absolute_folder)
    if values["encoder_weights"] is not None:
        values["encoder_weights"] = changed_values(values["encoder_weights"], modalities, absolute_weights)
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
        UserError: it contains parameters that this version does not know, or values that are not allowed.
    """
    declared = options()
    if not isinstance(saved, Mapping) or "preset" not in saved:
        raise UserError("config.json is no mapping with a preset: it has been changed since it was logged")
    if unknown := [name for name in saved if name not in declared]:
        raise UserError(
            f"the run was made by another version of MM-Balance, with {', '.join(unknown)}, unknown here; use that version"
        )
    for name, value in saved.items():
        _check_saved(declared[name], value)
    # All values are saved, and the preset file may be gone.
    return resolve({**saved, "preset": AUTO}).replace(preset=saved["preset"])


def _check_saved(option: Option, value: Any) -> None:
    """Raise UserError for a value that the command line would not have accepted."""
    try:
        known = parse_value(option, format_value(value))
        right = type(value) is type(known) or (option.type is float and type(value) is int)
        if not right:
            raise UserError(f"{option.name}={format_value(value)} is not {_noun(option)}")
    except UserError as error:
        raise UserError(f"config.json: {error}; it has been changed since it was logged") from None


def read_preset(preset: str, *, of_dataset: bool = False) -> dict[str, Any]:
    """Read the values of a preset, by parameter name, of runs and studies.

    Args:
        preset: ``auto`` (none beyond the data set's), one of ``NAMED_PRESETS``, or the path of a YAML file; with ``of_dataset``, a
            data set.
        of_dataset: read the preset of a data set: the file of its name, or ``manifest.yaml`` for a manifest or a function.

    Raises:
        UserError: no such file, not a mapping, an unknown parameter, or a value that is not allowed.
    """
    if of_dataset:
        name = MANIFEST if preset.endswith(".csv") or builder_path(preset) is not None else preset
        return _read((PRESETS / f"{name}.yaml").read_text("utf-8"), f"{name}.yaml")
    if preset == AUTO:
        return {}
    if preset in NAMED_PRESETS:
        return _read((PRESETS / f"{preset}.yaml").read_text("utf-8"), f"{preset}.yaml")
    try:
        text = Path(preset).expanduser().read_text("utf-8")
    except FileNotFoundError:
        raise UserError(
            f"preset={preset}: no such file; give auto, {', '.join(NAMED_PRESETS)} or the path of a YAML file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"preset={preset}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # a folder, a name that is too long, a NUL character
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"preset={_shortened(preset)}: cannot be read ({why})") from None
    return _read(text, preset)


class _PresetLoader(yaml.SafeLoader):
    """Reads plain values only, as what it derives from; a name that is given twice is an error, and not the last one the winner."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"it sets {twice[0]} twice")
        return super().construct_mapping(node, deep)


def _read(text: str, where: str) -> dict[str, Any]:
    try:
        loaded = yaml.load(text, _PresetLoader) or {}  # nosec B506
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{where}: too deeply nested; a preset is a mapping of parameter to value") from None
    except ValueError as error:  # a whole number of thousands of digits, an impossible date
        raise UserError(f"{where} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: a preset is a mapping of parameter to value")
    return _checked(loaded, where)


def _checked(loaded: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return the values of a preset, as ``parse_value`` has them.

    Raises:
        UserError: an unknown parameter, one that does not belong there, or a value that is not allowed.
    """
    declared: dict[str, Option] = {**options(), **study_options()}
    for name in map(str, loaded):
        if name not in declared:
            raise UserError(f"{where} sets {name}, which is not a parameter{did_you_mean(name, tuple(declared))}")
        if declared[name].machine and declared[name].reference:
            raise UserError(f"{where} sets {name}, which belongs on the command line")
    try:
        values = {str(name): parse_value(declared[str(name)], format_value(value)) for name, value in loaded.items()}
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return {name: value for name, value in values.items() if value != AUTO}


def _check(config: Config) -> None:
    loss, run = config.gap_mixture, config.run
    if loss.anneal == "exponential" and (loss.anneal_end <= 0 or loss.anneal_start <= 0):
        raise UserError("anneal=exponential needs anneal_start and anneal_end above 0")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", run.device):
        raise UserError(f"device={run.device} is not known; give auto, cpu, cuda or cuda:N")
    registered = config.registry.register_as
    if registered is not None and re.search("[/:]", registered):
        raise UserError(f"register_as={registered}: a name in MLflow's registry has no / and no :; give another one")
    names = config.data.modalities.split(",")
    if (
        len(set(names)) != len(names)
        or len(names) < 2
        or not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    ):
        raise UserError(
            f"modalities={config.data.modalities} does not name two or more different columns; write them like audio,visual"
        )
    check_encoders(config.model.encoder, names)
    if config.model.encoder_weights is not None:
        by_modality("encoder_weights", config.model.encoder_weights, names)
    chosen_modalities("encoder_freeze", config.model.encoder_freeze, names)
    scales_by_modality("encoder_learning_rate_scale", config.model.encoder_learning_rate_scale, names)
    if run.precision == "float16" and run.device == "cpu":
        raise UserError("precision=float16 needs a CUDA device; use float32 or bfloat16 on cpu")
