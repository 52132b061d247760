"""Which trials tune a method: one rule on numbers for all methods. Nothing here trains, reads a run or knows of test data.

A trial is a learning rate and a setting of the method's main option. The search goes along one after the other:

1. Every method, at the middle of its option's grid, at every learning rate of one grid.
2. At its best rate, the other values of its option's grid. A method with fewer of them (or without an option) refines instead.
3. Where a best value lies at an edge of its grid, the grid grows there by one step for every method that has this grid, and all
   others refine once more, so that all have the same number of trials; at most ``RATE_ROUNDS`` times for the rate, then at most
   ``OPTION_ROUNDS`` times for the options. What still lies at an edge is said, not hidden.

Refining is a trial between the best value so far and its better neighbor. Of equal scores the earlier trial counts, and
trials begin in the middle: grids grow for a reason only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mm_balance.config import Option, format_value, parse_value
from mm_balance.errors import UserError

RATE_ROUNDS, OPTION_ROUNDS = 1, 2
DIGITS = 3
"""Significant digits of values that are computed."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Numbers of one parameter, for every method that names this very object.

    Attributes:
        option: the parameter, whose declared bounds hold.
        values: ascending; a grid of one value has no edges.
        even: whether they lie at even distances; else each is a multiple of the one before.
    """

    option: Option
    values: tuple[float, ...]
    even: bool = False

    @property
    def middle(self) -> float:
        """Where a search begins."""
        return self.values[len(self.values) // 2]

    def text(self, value: float) -> str:
        """As one writes it: ``name=value``."""
        return f"{self.option.name}={format_value(value)}"

    def edge(self, value: float | str | None) -> str:
        """``low`` or ``high`` where ``value`` is the least or greatest of several; else empty."""
        if len(self.values) < 2 or value not in (self.values[0], self.values[-1]):
            return ""
        return "low" if value == self.values[0] else "high"

    def beyond(self, edge: str) -> float | None:
        """The next value beyond an edge; None where the parameter's bounds end."""
        last, neighbor = self.values[:2] if edge == "low" else self.values[:-3:-1]
        value = self._number(2 * last - neighbor if self.even else last * last / neighbor)
        return value if value not in self.values and self._allowed(value) else None

    def between(self, one: float, other: float) -> float:
        """Half-way between two values; one of them where a whole number does not go between."""
        return self._number((one + other) / 2 if self.even else math.sqrt(one * other))

    def widened(self, winners: Iterable[float | str | None]) -> tuple[Grid, list[float]]:
        """The grid with one step more beyond each edge where a winner lies, and the new values."""
        edges = {self.edge(value) for value in winners} - {""}
        new = [value for edge in sorted(edges) if (value := self.beyond(edge)) is not None]
        return (replace(self, values=tuple(sorted([*self.values, *new]))), new) if new else (self, [])

    def _number(self, value: float) -> float:
        return round(value) if self.option.type is int else float(f"{value:.{DIGITS}g}")

    def _allowed(self, value: float) -> bool:
        try:
            return bool(parse_value(self.option, format_value(value)) == value)
        except UserError:
            return False


@dataclass(frozen=True, eq=False)
class Words:
    """Settings that have no order and so no edge, as one writes them (``name=value,name=value``); the first is the usual one."""

    values: tuple[str, ...]

    @property
    def middle(self) -> str:
        """Where a search begins."""
        return self.values[0]

    def text(self, value: str) -> str:
        """As one writes it."""
        return value


@dataclass(frozen=True)
class Trial:
    """What a training of the search is given.

    Attributes:
        rate: learning rate.
        setting: value of the main option; None = the method has none.
    """

    rate: float
    setting: float | str | None

    def text(self, rates: Grid, space: Space) -> str:
        """As one writes it: ``learning_rate=0.02,alpha=0.3``."""
        return rates.text(self.rate) + ("" if space is None else f",{space.text(self.setting)}")  # type: ignore[arg-type]


Space = Grid | Words | None
Scores = dict[Trial, float]
"""Validation accuracy of each trial of a method, in the order in which they were proposed."""


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        scores: of every method.
        rates: the grid of learning rates, as it ended.
        spaces: each method's main option, as it ended.
    """

    scores: Mapping[str, Scores]
    rates: Grid
    spaces: Mapping[str, Space]

    @property
    def trials(self) -> int:
        """How many every method had. Raises ValueError where they are not the same for all."""
        counts = {method: len(scores) for method, scores in self.scores.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"methods have different numbers of trials: {counts}")
        return next(iter(counts.values()))

    def best(self, method: str) -> Trial:
        """The trial that the method is then trained with."""
        return best(self.scores[method])

    def edges(self, method: str) -> list[str]:
        """Parameters of the best trial that lie at an edge of their grid; with `(bound)` where the parameter ends there."""
        trial, found = self.best(method), []
        for axis, value in ((self.rates, trial.rate), (self.spaces[method], trial.setting)):
            if isinstance(axis, Grid) and (edge := axis.edge(value)):
                found.append(f"`{axis.option.name}`{'' if axis.beyond(edge) is not None else ' (bound)'}")
        return found


def tune(
    spaces: Mapping[str, Space],
    rates: Grid,
    score: Callable[[Mapping[str, Sequence[Trial]]], Mapping[str, Sequence[float]]],
) -> Tuning:
    """The whole search.

    Args:
        spaces: method -> its main option; methods that name the same grid share its growth.
        rates: learning rates that all methods share.
        score: what trains: method -> trials in, method -> their validation accuracies out. It is given new trials alone, and
            the same ones again when the search is repeated with the same scores.
    """
    scores: dict[str, Scores] = {method: {} for method in spaces}

    def train(wanted: Mapping[str, Sequence[Trial]]) -> None:
        for method, found in score(wanted).items():
            scores[method].update(zip(wanted[method], found, strict=True))

    def at_rates(new: Sequence[float]) -> None:
        train({name: [Trial(rate, space.middle if space else None) for rate in new] for name, space in spaces.items()})

    def with_values(new: Mapping[str, Sequence[float | str]]) -> None:
        if any(new.values()):
            wanted = {name: [Trial(best(scores[name]).rate, value) for value in new[name]] for name in spaces}
            train(equalised(wanted, scores, rates, spaces))

    at_rates(sorted(rates.values, key=lambda rate: rate != rates.middle))
    for _ in range(RATE_ROUNDS):
        rates, new = rates.widened(best(found).rate for found in scores.values())
        if new:
            at_rates(new)
    with_values(
        {name: [v for v in space.values if v != space.middle] if space else [] for name, space in spaces.items()}
    )
    for _ in range(OPTION_ROUNDS):
        spaces, values = _widened(spaces, scores)
        with_values(values)
    return Tuning(scores, rates, spaces)


def best(scores: Scores) -> Trial:
    """The trial with the highest score, the first of equals."""
    return max(scores, key=lambda trial: scores[trial])


def _widened(
    spaces: Mapping[str, Space], scores: Mapping[str, Scores]
) -> tuple[dict[str, Space], dict[str, list[float]]]:
    """Options and their new values, by method, after every grid has grown where a method that has it has its best at an edge."""
    now, new = dict(spaces), {method: list[float]() for method in spaces}
    for grid in {space for space in spaces.values() if isinstance(space, Grid)}:
        methods = [method for method, space in spaces.items() if space is grid]
        wider, values = grid.widened(best(scores[method]).setting for method in methods)
        for method in methods:
            now[method], new[method] = wider, values
    return now, new


def equalised(
    wanted: Mapping[str, Sequence[Trial]], scores: Mapping[str, Scores], rates: Grid, spaces: Mapping[str, Space]
) -> dict[str, list[Trial]]:
    """``wanted`` with refinements for the methods that want fewer trials than others, so that all have as many."""
    most = max(len(trials) for trials in wanted.values())
    filled = {}
    for method, trials in wanted.items():
        known = {*scores[method], *trials}
        more = [trial for trial in refinements(scores[method], rates, spaces[method]) if trial not in known]
        filled[method] = [*trials, *list(dict.fromkeys(more))[: most - len(trials)]]
    return filled


def refinements(scores: Scores, rates: Grid, space: Space) -> Iterator[Trial]:
    """Trials between the best one and its neighbors, the better neighbor first: of its option, then of its rate, ever closer."""
    top = best(scores)
    for name, axis in (("setting", space), ("rate", rates)):
        if not isinstance(axis, Grid):
            continue
        tried: dict[float, float] = {}
        for trial, value in scores.items():
            place = getattr(trial, name)
            tried[place] = max(value, tried.get(place, value))
        here = getattr(top, name)
        sides = ([place for place in tried if place < here], [place for place in tried if place > here])
        near = [choose(side) for side, choose in zip(sides, (max, min), strict=True) if side]
        near.sort(key=lambda place: -tried[place])
        for _ in range(DIGITS):  # closer would be the same number
            near = [axis.between(here, place) for place in near]
            yield from (replace(top, **{name: place}) for place in dict.fromkeys(near))
