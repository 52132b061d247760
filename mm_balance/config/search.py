"""Search spaces: the ranges declared with the parameters, modified by ``space``. Independent of Optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mm_balance.config.option import Option
from mm_balance.config.resolve import format_value, parse_value
from mm_balance.errors import UserError, did_you_mean

SEARCHES: dict[str, tuple[str, ...]] = {
    "anneal": ("anneal",),
    "weights": ("weights",),
    "anneal_and_weights": ("anneal", "weights"),
    "form": ("form",),
    "optimizer": ("optimizer",),
}
"""Named search -> values of ``Option.searched_by`` that it includes."""


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: ``choices``, or every value from ``low`` to ``high`` (integers if both are ints)."""

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __str__(self) -> str:
        """Format it as in ``space``."""
        if self.choices:
            return f"{self.name}={'|'.join(format_value(choice) for choice in self.choices)}"
        return f"{self.name}={format_value(self.low)}:{format_value(self.high)}:{'log' if self.log else 'linear'}"

    def contains(self, value: Any) -> bool:
        """Whether ``value`` is a choice or lies in the range."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high  # type: ignore[operator]


def declared_dimension(option: Option, value: Any) -> Dimension:
    """Return the declared range of ``option``, widened to include the configured ``value`` where its scale allows.

    Raises:
        UserError: no range is declared.
    """
    if option.search is None:
        raise UserError(f"{option.name} has no declared search range; give one: space={option.name}=LOW:HIGH or A|B")
    if len(option.search) == 3 and option.search[2] in ("log", "linear"):
        low, high, scale = option.search
        log = scale == "log"
        if isinstance(value, int | float) and not isinstance(value, bool) and not (log and value <= 0):
            low, high = min(low, value), max(high, value)
        return Dimension(option.name, option.type(low), option.type(high), log)
    choices = option.search if value in option.search or value is None else (*option.search, value)
    return Dimension(option.name, choices=tuple(choices))


def parse_space(
    text: str | None, known: Mapping[str, Option], excluded: Mapping[str, str] | None = None
) -> dict[str, Dimension | Any]:
    """Parse ``gap_weight=0.01:2:log,anneal=cosine|linear,hard_weight=1``: by name a dimension, or the value of a fixed parameter.

    Args:
        text: the text of ``space``; None = empty.
        known: searchable parameters.
        excluded: parameters that cannot be searched -> the reason.

    Raises:
        UserError: an unknown or repeated name, an empty or non-numeric range, a value that is not allowed.
    """
    parsed: dict[str, Dimension | Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, separator, spec = (piece.strip() for piece in part.partition("="))
        if not separator or not spec:
            raise UserError(
                f"space: {part.strip()!r} is not understood; write name=low:high[:log], name=a|b or name=value"
            )
        if excluded and name in excluded:
            raise UserError(f"space: {name} cannot be searched: {excluded[name]}")
        if name not in known:
            raise UserError(
                f"space: {name} cannot be searched here{did_you_mean(name, tuple(known))}; these can: {', '.join(known)}"
            )
        if name in parsed:
            raise UserError(f"space: {name} is given twice")
        parsed[name] = _read(known[name], spec)
    return parsed


def _read(option: Option, spec: str) -> Dimension | Any:
    if "|" in spec:
        choices = tuple(parse_value(option, word) for word in spec.split("|"))
        if len(set(choices)) < len(choices):
            raise UserError(f"space: {option.name}={spec} names a value twice")
        return Dimension(option.name, choices=choices)
    if ":" not in spec:
        return parse_value(option, spec)
    low, high, *scale = spec.split(":")
    if option.type not in (int, float) or len(scale) > 1 or scale not in ([], ["log"], ["linear"]):
        raise UserError(
            f"space: {option.name}={spec} is not understood; write low:high[:log|linear] for numbers, a|b for choices"
        )
    dimension = Dimension(option.name, parse_value(option, low), parse_value(option, high), scale == ["log"])
    numbers = isinstance(dimension.low, option.type) and isinstance(dimension.high, option.type)
    if not numbers or dimension.low >= dimension.high or (dimension.log and dimension.low <= 0):  # type: ignore[operator]
        raise UserError(
            f"space: {option.name}={spec} is not a range; the first number must be the smaller one, and above 0 for log"
        )
    return dimension


def search_space(
    names: Iterable[str],
    text: str | None,
    known: Mapping[str, Option],
    values: Mapping[str, Any],
    given: Iterable[str] = (),
    excluded: Mapping[str, str] | None = None,
) -> tuple[dict[str, Dimension], dict[str, Any]]:
    """Return the searched dimensions and the values that ``space`` fixes.

    Args:
        names: parameters of the named search.
        text: the text of ``space``.
        known: every searchable parameter.
        values: the configured values.
        given: parameters set by the user; those among ``names`` are not searched.
        excluded: parameters that cannot be searched -> the reason.

    Returns:
        Dimensions by name, and fixed values by name.

    Raises:
        UserError: as in ``parse_space``, or nothing is left to search.
    """
    changed = parse_space(text, known, excluded)
    fixed = {name: value for name, value in changed.items() if not isinstance(value, Dimension)}
    searched = {
        name: declared_dimension(known[name], values.get(name))
        for name in names
        if name not in given and name not in changed
    }
    searched |= {name: item for name, item in changed.items() if isinstance(item, Dimension)}
    if not searched:
        raise UserError("nothing is left to search; name a search, or give dimensions in space=NAME=LOW:HIGH")
    return searched, fixed
