"""Tuning protocol: one search rule for all methods. Pure logic: no training, no access to runs or test data.

A trial is a learning rate and a setting of the method's main option. The two are searched one after the other:

1. Every method is tried at every learning rate of one grid, with its option at the middle of its grid.
2. At the best rate, the other values of the option's grid are tried. A method with fewer values (or no option) refines instead.
3. If a best value lies at an edge of its grid, the grid is extended by one step there for every method that uses this grid, and
   all other methods refine once more, so that all have the same number of trials; at most ``RATE_ROUNDS`` times for the rate, then
   at most ``OPTION_ROUNDS`` times for the options. Values that still lie at an edge are reported.

A refinement is a trial between the best value so far and its better neighbor. Ties go to the earlier trial, and search starts in
the middle, so that grids are only extended if scores improve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mm_balance.config import Option, format_value, parse_value
from mm_balance.errors import UserError

RATE_ROUNDS, OPTION_ROUNDS = 1, 2
DIGITS = 3
"""Significant digits of computed values."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Grid of numeric values of one parameter, shared by all methods that reference the same object.

    Attributes:
        option: the parameter; its declared bounds limit the grid.
        values: ascending; a grid of one value has no edges.
        even: linear spacing; otherwise geometric.
    """

    option: Option
    values: tuple[float, ...]
    even: bool = False

    @property
    def middle(self) -> float:
        """Value at which the search starts."""
        return self.values[len(self.values) // 2]

    def text(self, value: float) -> str:
        """Format a value as ``name=value``."""
        return f"{self.option.name}={format_value(value)}"

    def edge(self, value: float | str | None) -> str:
        """Return ``low`` or ``high`` if ``value`` is the smallest or largest of several; otherwise an empty string."""
        if len(self.values) < 2 or value not in (self.values[0], self.values[-1]):
            return ""
        return "low" if value == self.values[0] else "high"

    def beyond(self, edge: str) -> float | None:
        """Return the next value beyond an edge, or None if the parameter's bounds exclude it."""
        last, neighbor = self.values[:2] if edge == "low" else self.values[:-3:-1]
        value = self._number(2 * last - neighbor if self.even else last * last / neighbor)
        return value if value not in self.values and self._allowed(value) else None

    def between(self, one: float, other: float) -> float:
        """Return the midpoint of two values; for integers without one in between, one of the two."""
        return self._number((one + other) / 2 if self.even else math.sqrt(one * other))

    def widened(self, winners: Iterable[float | str | None]) -> tuple[Grid, list[float]]:
        """Return the grid extended by one step beyond each edge at which a winner lies, and the new values."""
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
class Choices:
    """Unordered settings, without edges, written ``name=value,name=value``; the first is the default."""

    values: tuple[str, ...]

    @property
    def middle(self) -> str:
        """Value at which the search starts."""
        return self.values[0]

    def text(self, value: str) -> str:
        """Return the setting unchanged: it is already formatted."""
        return value


@dataclass(frozen=True)
class Trial:
    """Hyperparameters of one training run of the search.

    Attributes:
        rate: learning rate.
        setting: value of the main option; None = the method has no option.
    """

    rate: float
    setting: float | str | None

    def text(self, rates: Grid, space: Space) -> str:
        """Format the trial as ``learning_rate=0.02,alpha=0.3``."""
        return rates.text(self.rate) + ("" if space is None else f",{space.text(self.setting)}")  # type: ignore[arg-type]


Space = Grid | Choices | None
Scores = dict[Trial, float]
"""Validation accuracy of each trial of a method, in the order of proposal."""


@dataclass(frozen=True)
class Tuning:
    """Result of a search.

    Attributes:
        scores: method -> scores of its trials.
        rates: final grid of learning rates.
        spaces: method -> final grid or choices of its main option.
    """

    scores: Mapping[str, Scores]
    rates: Grid
    spaces: Mapping[str, Space]

    @property
    def trials(self) -> int:
        """Number of trials per method. Raises ValueError if methods differ."""
        counts = {method: len(scores) for method, scores in self.scores.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"methods have different numbers of trials: {counts}")
        return next(iter(counts.values()))

    def best(self, method: str) -> Trial:
        """Return the best trial of the method, used for its final runs."""
        return best(self.scores[method])

    def edges(self, method: str) -> list[str]:
        """Return parameters of the best trial that lie at an edge of their grid, marked `(bound)` at a bound of the parameter."""
        trial, edges = self.best(method), []
        for axis, value in ((self.rates, trial.rate), (self.spaces[method], trial.setting)):
            if isinstance(axis, Grid) and (edge := axis.edge(value)):
                edges.append(f"`{axis.option.name}`{'' if axis.beyond(edge) is not None else ' (bound)'}")
        return edges


def tune(
    spaces: Mapping[str, Space],
    rates: Grid,
    score: Callable[[Mapping[str, Sequence[Trial]]], Mapping[str, Sequence[float]]],
) -> Tuning:
    """Run the full search.

    Args:
        spaces: method -> grid or choices of its main option; methods that share a grid object share its extensions.
        rates: grid of learning rates shared by all methods.
        score: trains and evaluates: method -> trials in, method -> validation accuracies out. It only receives new trials; the
            search is deterministic, so repeating it with the same scores proposes the same trials.
    """
    scores: dict[str, Scores] = {method: {} for method in spaces}

    def train(proposed: Mapping[str, Sequence[Trial]]) -> None:
        for method, values in score(proposed).items():
            scores[method].update(zip(proposed[method], values, strict=True))

    def try_rates(new: Sequence[float]) -> None:
        train({name: [Trial(rate, space.middle if space else None) for rate in new] for name, space in spaces.items()})

    def try_values(new: Mapping[str, Sequence[float | str]]) -> None:
        if any(new.values()):
            proposed = {name: [Trial(best(scores[name]).rate, value) for value in new[name]] for name in spaces}
            train(equalized(proposed, scores, rates, spaces))

    # The learning rate first, the middle of its grid first; then the options at the best rate.
    try_rates(sorted(rates.values, key=lambda rate: rate != rates.middle))
    for _ in range(RATE_ROUNDS):
        rates, new = rates.widened(best(trials).rate for trials in scores.values())
        if new:
            try_rates(new)
    try_values(
        {name: [v for v in space.values if v != space.middle] if space else [] for name, space in spaces.items()}
    )
    for _ in range(OPTION_ROUNDS):
        spaces, values = _widened(spaces, scores)
        try_values(values)
    return Tuning(scores, rates, spaces)


def best(scores: Scores) -> Trial:
    """Return the trial with the highest score; ties go to the earliest."""
    return max(scores, key=lambda trial: scores[trial])


def _widened(
    spaces: Mapping[str, Space], scores: Mapping[str, Scores]
) -> tuple[dict[str, Space], dict[str, list[float]]]:
    """Extend each grid beyond the edges at which a method's best value lies; return spaces and new values by method."""
    extended, new = dict(spaces), {method: list[float]() for method in spaces}
    for grid in {space for space in spaces.values() if isinstance(space, Grid)}:
        methods = [method for method, space in spaces.items() if space is grid]
        wider, values = grid.widened(best(scores[method]).setting for method in methods)
        for method in methods:
            extended[method], new[method] = wider, values
    return extended, new


def equalized(
    proposed: Mapping[str, Sequence[Trial]], scores: Mapping[str, Scores], rates: Grid, spaces: Mapping[str, Space]
) -> dict[str, list[Trial]]:
    """Add refinements to ``proposed`` for methods with fewer trials than others, so that all have the same number."""
    most = max(len(trials) for trials in proposed.values())
    padded = {}
    for method, trials in proposed.items():
        known = {*scores[method], *trials}
        more = [trial for trial in refinements(scores[method], rates, spaces[method]) if trial not in known]
        padded[method] = [*trials, *list(dict.fromkeys(more))[: most - len(trials)]]
    return padded


def refinements(scores: Scores, rates: Grid, space: Space) -> Iterator[Trial]:
    """Yield trials between the best one and its neighbors, ever closer: of the option, then of the rate; better neighbor first."""
    top = best(scores)
    for name, axis in (("setting", space), ("rate", rates)):
        if not isinstance(axis, Grid):
            continue
        tried: dict[float, float] = {}
        for trial, score in scores.items():
            value = getattr(trial, name)
            tried[value] = max(score, tried.get(value, score))
        winner = getattr(top, name)
        sides = ([value for value in tried if value < winner], [value for value in tried if value > winner])
        neighbors = [choose(side) for side, choose in zip(sides, (max, min), strict=True) if side]
        neighbors.sort(key=lambda value: -tried[value])
        for _ in range(DIGITS):  # any closer, values round to the same number
            neighbors = [axis.between(winner, value) for value in neighbors]
            yield from (replace(top, **{name: value}) for value in dict.fromkeys(neighbors))
