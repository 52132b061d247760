"""Runs with the same settings become one row: which settings tell them apart, and which row others are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mm_balance.config import options
from mm_balance.errors import UserError
from mm_balance.report.runs import TrainedRun
from mm_balance.reproduction.tables import CONTROL

FIRST_KEYS = ("dataset", "corruption", "corruption_kind", "method")
"""Settings that come first, in this order, among those that distinguish runs."""
NAMELESS = ("dataset", "method")
"""Settings whose values say what they are of."""
STAGE = "command"
"""Key of the entry point, beside the settings."""
CONTROLS = (CONTROL, "concat")
"""Methods that others are compared with, the first one that is there."""


@dataclass(frozen=True)
class Group:
    """Runs that agree in the settings of a row.

    Attributes:
        key: setting -> value as text, of the settings that tell the groups apart.
        runs: seed -> its runs: one, or several that differ in settings which are not in ``key``. Of several with the same settings the
            newest.
        repeated: how many older runs with the same settings and seed are left out.
    """

    key: Mapping[str, str]
    runs: Mapping[int, Sequence[TrainedRun]]
    repeated: int = 0

    @property
    def all_runs(self) -> list[TrainedRun]:
        """All its runs, by seed."""
        return [run for _, runs in sorted(self.runs.items()) for run in runs]

    @property
    def first(self) -> TrainedRun:
        """The run with the lowest seed; of several the newest."""
        return self.runs[min(self.runs)][0]

    @property
    def name(self) -> str:
        """Its settings in one line; the data set and the method by their names alone."""
        parts = {name: value for name, value in self.key.items() if value}
        return ", ".join(value if name in NAMELESS else f"{name}={value}" for name, value in parts.items())

    def values(self, metric: str) -> dict[int, float]:
        """Return seed -> value, of the seeds whose runs all have the metric; the mean, if there are several runs."""
        return {
            seed: fmean(run.metrics[metric] for run in runs)
            for seed, runs in sorted(self.runs.items())
            if all(metric in run.metrics for run in runs)
        }


def value_of(run: TrainedRun, key: str) -> str:
    """Return a setting of a run as text, of a data set its name (not a path); empty if the run does not have it."""
    if key == STAGE:
        return run.stage
    return run.data if key == "dataset" else run.settings.get(key, "")


def telling_keys(runs: Sequence[TrainedRun]) -> list[str]:
    """Return the settings that tell the runs apart: as few as tell them apart as well as all of them together do.

    A setting that follows from earlier ones (image size from the data set, say) is no key. Their order: ``FIRST_KEYS``, the others as
    they are declared, the entry point.
    """
    known = dict.fromkeys(name for run in runs for name in run.settings)
    candidates = [
        *(name for name in FIRST_KEYS if name in known),
        *(name for name in known if name not in FIRST_KEYS),
        STAGE,
    ]
    keys: list[str] = []
    number = 1
    for name in candidates:
        finer = len({tuple(value_of(run, key) for key in (*keys, name)) for run in runs})
        if finer > number:
            keys, number = [*keys, name], finer
    return keys or ["method"]


def check_keys(keys: Iterable[str], runs: Sequence[TrainedRun]) -> list[str]:
    """Return the keys that the user named.

    Raises:
        UserError: no run has such a setting.
    """
    known = sorted({name for run in runs for name in run.settings} | {STAGE})
    keys = [key.strip() for key in keys]
    for key in keys:
        if key not in known:
            raise UserError(f"group_by: no run has a setting {key!r}; they have: {', '.join(known)}")
    return keys


def group(runs: Iterable[TrainedRun], keys: Sequence[str]) -> list[Group]:
    """Group runs, given newest first, by the values of ``keys``; runs without a seed are no part of a group."""
    members: dict[tuple[str, ...], dict[int, list[TrainedRun]]] = {}
    repeated: dict[tuple[str, ...], int] = {}
    for run in runs:
        if run.seed is None:
            continue
        values = tuple(value_of(run, key) for key in keys)
        same_seed = members.setdefault(values, {}).setdefault(run.seed, [])
        if any(other.settings == run.settings and other.stage == run.stage for other in same_seed):
            repeated[values] = repeated.get(values, 0) + 1
        else:
            same_seed.append(run)
    ordered = sorted(members, key=lambda values: tuple(map(_sortable, values)))
    return [Group(dict(zip(keys, values, strict=True)), members[values], repeated.get(values, 0)) for values in ordered]


def mixed_settings(groups: Iterable[Group]) -> list[str]:
    """Return the settings in which runs of the same row and seed differ, so that the row is an average over them."""
    return list(
        dict.fromkeys(
            name for item in groups for runs in item.runs.values() if len(runs) > 1 for name in telling_keys(runs)
        )
    )


def _sortable(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def parse_baseline(text: str) -> dict[str, str]:
    """Parse ``name=value,name=value``.

    Raises:
        UserError: another form.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not (name.strip() and sign and value.strip()) for name, sign, value in pairs):
        raise UserError(f"baseline={text} is not of the form setting=value,setting=value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def default_baseline(groups: Sequence[Group]) -> dict[str, str]:
    """Return what the baseline is if nobody says: the control, else joint training, where methods differ; else nothing."""
    methods = {item.key.get("method") for item in groups}
    return next(({"method": name} for name in CONTROLS if name in methods and len(methods) > 1), {})


def same_task(first: TrainedRun, second: TrainedRun) -> bool:
    """Return whether two runs have the same data, inputs and corruption: only then a difference is that of how they were trained."""
    names = {
        name
        for name, option in options().items()
        if option.in_digest or option.network_input or option.group == "corruption"
    }
    return first.data == second.data and all(
        first.settings.get(name) == second.settings.get(name) for name in names - {"dataset"}
    )


def baseline_of(item: Group, groups: Sequence[Group], baseline: Mapping[str, str], *, metric: str) -> Group | None:
    """Return the group that ``item`` is compared with; None = it is one itself, or there is none.

    That is a group with the values of ``baseline`` on the same task (``same_task``). Of several the one that agrees in most settings,
    then the one with most seeds in common, then the one with the higher mean of ``metric``.

    Args:
        item: the group.
        groups: all groups of the table.
        baseline: setting -> value; empty = no baseline.
        metric: name of a validation metric; nothing is chosen on test.
    """
    if not baseline or is_baseline(item, baseline):
        return None
    candidates = [
        other
        for other in groups
        if is_baseline(other, baseline) and all(same_task(item.first, run) for run in [*item.all_runs, *other.all_runs])
    ]

    def rank(other: Group) -> tuple[int, int, float]:
        mine, others = item.first.settings, other.first.settings
        same = sum(others.get(name) == value for name, value in mine.items() if name not in baseline)
        values = other.values(metric).values()
        return same, len(other.runs.keys() & item.runs.keys()), fmean(values) if values else 0.0

    return max(candidates, key=rank, default=None)


def is_baseline(item: Group, wanted: Mapping[str, str]) -> bool:
    """Return whether all runs of a group have the settings of the baseline."""
    return all(value_of(run, name) == value for run in item.all_runs for name, value in wanted.items())
