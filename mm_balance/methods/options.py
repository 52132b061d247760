"""Options of methods: declared as fields of a frozen dataclass, written ``alpha=0.8,noise=true``, checked like parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, get_type_hints

from mm_balance.config import Option, option_of, parse_value
from mm_balance.errors import UserError


def option(default: Any, help: str, **extra: Any) -> Any:
    """A field of a method's options.

    Args:
        default: value where nothing is given.
        help: one sentence.
        **extra: ``choices``, ``minimum``, ``exclusive``, ``maximum``, ``source``, ``search`` as of ``Option``.
    """
    return field(default=default, metadata={"help": help, **extra})


def parameter(name: str) -> Any:
    """A field that is the program's parameter of that name: same default, range and help."""
    declared = option_of(name)
    kept = ("help", "choices", "minimum", "exclusive", "maximum", "source", "search")
    return field(default=declared.default, metadata={item: getattr(declared, item) for item in kept})


def declared_options(options: type) -> dict[str, Option]:
    """The fields of a method's ``Options`` as the parser knows parameters."""
    kinds = get_type_hints(options)
    return {
        item.name: Option(name=item.name, kind=kinds[item.name], default=item.default, group="method", **item.metadata)
        for item in dataclasses.fields(options)
    }


def parse_options(method: str, options: type, text: str | None) -> dict[str, Any]:
    """Typed values of ``name=value,name=value``.

    Raises:
        UserError: an option that the method lacks, given twice, without a value, or with one that is not allowed.
    """
    declared = declared_options(options)
    values: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign:
            raise UserError(f"method_options: {name!r} has no value; write them like name=value,name=value")
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise UserError(f"method_options: {method} has no option {name!r}; it has: {known}")
        if name in values:
            raise UserError(f"method_options: {name} is given twice")
        values[name] = parse_value(declared[name], value)
    return values


def option_lines(options: type) -> list[str]:
    """One line for each option: name, default, what is allowed, meaning, source."""
    lines = []
    for item in declared_options(options).values():
        allowed = f" ({'|'.join(item.choices)})" if item.choices else ""
        source = f" [{item.source}]" if item.source else ""
        lines.append(f"{item.name}={str(item.default).lower()}{allowed}: {item.help}{source}")
    return lines


def complete(options: type, settings: Mapping[str, Any]) -> Any:
    """An instance of ``options`` with those of its fields that ``settings`` holds."""
    return options(**{item.name: settings[item.name] for item in dataclasses.fields(options) if item.name in settings})
