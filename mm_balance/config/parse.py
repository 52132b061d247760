"""From text to typed values and back. MLflow checks neither type, choice nor name: everything is checked here."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mm_balance.config.entry_points import ENTRY_POINT_HELP, entry_point_options
from mm_balance.config.options import AUTO, NONE, Option
from mm_balance.errors import UserError


def parse_value(option: Option, text: str) -> Any:
    """The typed value of ``text``.

    Returns:
        A value of ``option.kind``; ``"auto"`` where that is allowed and given; ``None`` for an allowed ``none``.

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
    if option.kind is str:
        if option.choices and text not in option.choices:
            raise UserError(
                f"{option.name}={text} is not known; {_allowed(option)}{did_you_mean(text, option.choices)}"
            )
        return text
    if option.kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"{option.name}={text} is neither true nor false")
        return text == "true"
    try:
        value = option.kind(text)
    except ValueError:
        raise UserError(f"{option.name}={text} is not {_noun(option)}; {_allowed(option)}") from None
    if not math.isfinite(value) or not _in_range(option, value):
        raise UserError(f"{option.name}={text} is out of range; {_allowed(option)}")
    return value


def format_value(value: Any) -> str:
    """The text of a value as one writes it on the command line; floats in decimal, never with an exponent."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0") + ("0" if value == int(value) else "")
    return str(value)


def parse_arguments(entry_point: str, arguments: Sequence[str], epilog: str = "") -> dict[str, Any]:
    """The values given on the command line (declared defaults where nothing was given), by parameter name.

    Args:
        entry_point: whose parameters.
        arguments: without the program's name.
        epilog: what ``--help`` says below the parameters.

    Raises:
        UserError: an unknown parameter, or a bad value.
    """
    declared = entry_point_options(entry_point)
    parser = _Parser(
        prog=f"python -m entrypoints.{entry_point}",
        description=ENTRY_POINT_HELP[entry_point],
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in declared.values():
        parser.add_argument(
            f"--{option.name}",
            default=format_value(_none_word(option)),
            metavar="|".join(option.choices) or option.kind.__name__.upper(),
            help=f"{option.help} (default: {format_value(_none_word(option))})".replace("%", "%%"),
        )
    given, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-")
        raise UserError(f"unknown parameter `{name}` of {entry_point}{did_you_mean(name, tuple(declared))}")
    return {name: parse_value(option, getattr(given, name)) for name, option in declared.items()}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            sys.stderr.write(message)
        raise SystemExit(status)


def _none_word(option: Option) -> Any:
    return None if option.default == NONE else option.default


def _in_range(option: Option, value: float) -> bool:
    if option.minimum is not None and (value < option.minimum or (option.exclusive and value == option.minimum)):
        return False
    return option.maximum is None or value <= option.maximum


def _noun(option: Option) -> str:
    return {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}[option.kind]


def _allowed(option: Option) -> str:
    if option.choices:
        words = "one of " + ", ".join(option.choices)
    elif option.kind is str:
        words = "a value"
    else:
        words = _noun(option)
        if option.minimum is not None:
            words += f" {'above' if option.exclusive else 'of at least'} {option.minimum:g}"
        if option.maximum is not None:
            words += f"{',' if option.minimum is not None else ''} at most {option.maximum:g}"
    if option.default in (AUTO, NONE):
        words += f", or {option.default}"
    return f"give {words}"


def did_you_mean(text: str, known: Sequence[str]) -> str:
    """`` (did you mean x?)`` where a known word is close, else nothing."""
    close = difflib.get_close_matches(text, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
