"""Parsing and formatting of values. MLflow checks neither types, choices nor names, so everything is checked here."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mm_balance.config.option import AUTO, NONE, Option
from mm_balance.errors import UserError


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
    if option.type is str:
        if option.choices and text not in option.choices:
            raise UserError(
                f"{option.name}={text} is not known; {_allowed(option)}{did_you_mean(text, option.choices)}"
            )
        return text
    if option.type is bool:
        if text not in ("true", "false"):
            raise UserError(f"{option.name}={text} is neither true nor false")
        return text == "true"
    try:
        value = option.type(text)
    except ValueError:
        raise UserError(f"{option.name}={text} is not {_noun(option)}; {_allowed(option)}") from None
    if not math.isfinite(value) or not _in_range(option, value):
        raise UserError(f"{option.name}={text} is out of range; {_allowed(option)}")
    return value


def format_value(value: Any) -> str:
    """Format a value as on the command line; floats in decimal notation, never with an exponent."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0") + ("0" if value == int(value) else "")
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


def did_you_mean(text: str, known: Sequence[str]) -> str:
    """Return `` (did you mean x?)`` if a known word is close, else an empty string."""
    close = difflib.get_close_matches(text, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
