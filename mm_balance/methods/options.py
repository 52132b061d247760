"""Method options: fields of a frozen dataclass, written ``alpha=0.8,noise=true`` and validated like parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mm_balance.config import Option, declared_in, format_value, options, parse_method_options
from mm_balance.config import param as option

__all__ = ["complete", "declared_options", "option", "option_lines", "parameter", "parse_options"]


def parameter(name: str) -> Any:
    """Declare an option that mirrors the run parameter ``name``: same default, range and meaning."""
    declared = options()[name]
    copied = ("choices", "minimum", "exclusive", "maximum", "source", "search")
    return option(declared.default, declared.help, **{item: getattr(declared, item) for item in copied})


def declared_options(declaring: type) -> dict[str, Option]:
    """Return the fields of a method's ``Options`` in the form that the parser uses: name -> ``Option``."""
    return declared_in(declaring, "method")


def parse_options(method: str, options: type, text: str | None) -> dict[str, Any]:
    """Parse ``name=value,name=value`` into typed values.

    Raises:
        UserError: an option that is unknown, repeated, lacks a value, or has an invalid one.
    """
    return parse_method_options(method, declared_options(options), text)


def option_lines(options: type) -> list[str]:
    """Describe each option on one line: name, default, allowed values, meaning, source."""
    lines = []
    for item in declared_options(options).values():
        allowed = f" ({'|'.join(item.choices)})" if item.choices else ""
        source = f" [{item.source}]" if item.source else ""
        lines.append(f"{item.name}={format_value(item.default)}{allowed}: {item.help}{source}")
    return lines


def complete(options: type, settings: Mapping[str, Any]) -> Any:
    """Build an ``options`` instance from ``settings``; other keys are ignored, missing fields take their defaults."""
    return options(**{item.name: settings[item.name] for item in dataclasses.fields(options) if item.name in settings})
