"""Options of methods: declared as fields of a frozen dataclass, written ``alpha=0.8,noise=true``, checked like parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mm_balance.config import Option, declared_in, format_value, options, parse_method_options
from mm_balance.config import param as option

__all__ = ["complete", "declared_options", "option", "option_lines", "parameter", "parse_options"]


def parameter(name: str) -> Any:
    """A field that is the run's parameter of that name: same default, range and meaning."""
    declared = options()[name]
    kept = ("choices", "minimum", "exclusive", "maximum", "source", "search")
    return option(declared.default, declared.help, **{item: getattr(declared, item) for item in kept})


def declared_options(declaring: type) -> dict[str, Option]:
    """The fields of a method's ``Options`` as the parser knows parameters."""
    return declared_in(declaring, "method")


def parse_options(method: str, options: type, text: str | None) -> dict[str, Any]:
    """Typed values of ``name=value,name=value``.

    Raises:
        UserError: an option that the method lacks, given twice, without a value, or with one that is not allowed.
    """
    return parse_method_options(method, declared_options(options), text)


def option_lines(options: type) -> list[str]:
    """One line for each option: name, default, what is allowed, meaning, source."""
    lines = []
    for item in declared_options(options).values():
        allowed = f" ({'|'.join(item.choices)})" if item.choices else ""
        source = f" [{item.source}]" if item.source else ""
        lines.append(f"{item.name}={format_value(item.default)}{allowed}: {item.help}{source}")
    return lines


def complete(options: type, settings: Mapping[str, Any]) -> Any:
    """An instance of ``options`` with those of its fields that ``settings`` holds."""
    return options(**{item.name: settings[item.name] for item in dataclasses.fields(options) if item.name in settings})
