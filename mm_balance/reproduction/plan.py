"""From tables to jobs: each distinct training once, with the tables that it belongs to. Pure: reads no data and no runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mm_balance.config import (
    ADAPTIVE_METHOD,
    Config,
    format_value,
    options,
    resolve,
    warmup_parameters,
)
from mm_balance.config.resolve import PRESETS
from mm_balance.errors import UserError
from mm_balance.methods import METHODS
from mm_balance.reproduction.tables import DATA, QUICK, Row, Table
from mm_balance.workflow.plans import StagePlan, trial_plan, warmup_plan
from mm_balance.workflow.provenance import FollowedWarmup, Provenance, recorded_parameters, warmup_settings

EMBEDDED = ("digits", QUICK)
OWN = "manifest"


@dataclass(frozen=True)
class Place:
    """Where a result stands: table, group (empty if the table has none) and name of the row."""

    table: str
    group: str
    row: str

    def __str__(self) -> str:
        return f"{self.table}: {f'{self.group}: ' if self.group else ''}{self.row}"


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        config: its configuration.
        after_warmup: whether it is a second stage after a warm-up.
        places: where its result stands.
        settings: the settings by which its runs are found, see ``settings_of``; none for a warm-up.
        is_warmup: whether it is a warm-up, which any number of rows continue; its places are those of the first one.
    """

    config: Config
    after_warmup: bool
    places: tuple[Place, ...]
    settings: Mapping[str, str] = field(compare=False)
    is_warmup: bool = False

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def label(self) -> str:
        """Its name in messages and in the tag ``mm.row``."""
        places = "; ".join(map(str, self.places))
        return f"warm-up of {places}" if self.is_warmup else places

    @cached_property
    def plan(self) -> StagePlan:
        """What its run trains."""
        return warmup_plan(self.config) if self.is_warmup else trial_plan(self.config, after_warmup=self.after_warmup)

    @property
    def total_epochs(self) -> int:
        """Epochs of its network, those of the warm-up included."""
        warmup = self.config.warmup.warmup_epochs
        if self.is_warmup:
            return warmup
        return warmup + self.config.adaptive.adaptive_epochs if self.after_warmup else self.config.train.epochs

    @cached_property
    def warmup_key(self) -> tuple[str, ...]:
        """Equal for jobs that share a warm-up, and for the warm-up itself."""
        values = self.config.values()
        data = [name for name, option in options().items() if option.in_digest]
        return tuple(f"{name}={format_value(values[name])}" for name in (*warmup_parameters(), *data))


def base_settings(preset: str, dataset: str | None = None, **machine: Any) -> dict[str, Any]:
    """Return the parameters that all rows have in common.

    Args:
        preset: data set whose tables are made, ``quick``, or ``manifest`` = your own clips.
        dataset: path of a manifest instead of the prepared data set; needed for ``manifest``.
        **machine: parameters that do not concern what is trained: ``data_dir``, ``device``, ``allow_outside``.

    Raises:
        UserError: a data set that is missing, or cannot be given.
    """
    if preset in EMBEDDED:
        if dataset is not None:
            raise UserError(f"preset={preset} is embedded: leave dataset out, or give preset={OWN} for your own clips")
        return {"dataset": "digits", **({"preset": QUICK} if preset == QUICK else {}), **machine}
    if preset == OWN and dataset is None:
        raise UserError(f"preset={OWN} is for your own clips: give dataset=PATH/manifest.csv")
    if dataset is None or dataset == preset:
        return {"dataset": preset, **machine}
    if not dataset.endswith(".csv"):
        raise UserError(f"dataset={dataset}: give the path of a manifest.csv, or leave it out for preset={preset}")
    return {"dataset": dataset, **({} if preset == OWN else {"preset": str(PRESETS / f"{preset}.yaml")}), **machine}


def preset_of(dataset: str, preset: str) -> str:
    """Return the name under which a data set has its tables: the inverse of ``base_settings``.

    Args:
        dataset: value of the parameter ``dataset`` of its runs.
        preset: value of their parameter ``preset``.
    """
    if preset == QUICK:
        return QUICK
    if not dataset.endswith(".csv"):
        return dataset
    return next((name for name in DATA if Path(preset).name == f"{name}.yaml"), OWN)


def configuration(row: Row, base: Mapping[str, Any], seed: int) -> Config:
    """Return the configuration of a row: as many epochs as all others, with the same learning rate in each.

    Training from scratch keeps the initial rate for the length of a warm-up, and then decays it as a second stage does.

    Raises:
        UserError: incompatible settings.
    """
    settings = {**base, **row.settings}
    if row.after_warmup:
        config = stage_two(settings, row.method, seed)
        if config.stage.gap_source == "cross_fitted":
            # Each refit trains copies as long as the network itself: at the beginning and at the end of the stage only.
            config = config.replace(refit_every=config.adaptive.adaptive_epochs)
        return config
    config = _with_method(settings, row.method, seed)
    warmup = config.warmup.warmup_epochs
    hold = warmup if config.optimization.learning_rate_schedule == "cosine" else 0
    return config.replace(epochs=warmup + config.adaptive.adaptive_epochs, learning_rate_hold=hold)


def stage_two(settings: Mapping[str, Any], method: str, seed: int) -> Config:
    """Return the configuration of a method after a warm-up; other methods than the paper's run as a stage of `train`, as long.

    Args:
        settings: parameters and options of the method, by name.
        method: its name in ``METHODS``; empty = the warm-up itself.
        seed: seed of the run.
    """
    if method in ("", ADAPTIVE_METHOD):
        return resolve({**settings, "seed": seed})
    config = _with_method(settings, method, seed)
    return config.replace(epochs=config.adaptive.adaptive_epochs)


def _with_method(settings: Mapping[str, Any], method: str, seed: int) -> Config:
    """Return the configuration with the method's own options, which are among ``settings``, as ``method_options``."""
    names = {item.name for item in fields(METHODS[method].Options)}
    chosen = {name: value for name, value in settings.items() if name in names}
    config = resolve({**{name: value for name, value in settings.items() if name not in names}, "seed": seed})
    return config.replace(
        method=method,
        method_options=",".join(f"{name}={format_value(value)}" for name, value in chosen.items()) or None,
    )


def of_warmup(settings: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Return the settings on which the warm-up depends: its parameters, and those of the data."""
    known = {"preset", *warmup_parameters(), *(name for name, option in options().items() if option.in_digest)}
    return tuple((name, value) for name, value in settings if name in known)


def settings_of(config: Config, *, after_warmup: bool) -> dict[str, str]:
    """Return what a run of this configuration logs about its training, whatever its seed and machine: name -> text.

    ``config/<name>`` and ``method/<name>`` are parameters of the run (those that may grow are tags), ``mm.method`` is a tag. The run
    logs more: a run belongs to a row if it has all of these.

    Args:
        config: the configuration.
        after_warmup: whether the run starts from a warm-up.
    """
    plan = trial_plan(config, after_warmup=after_warmup)
    warmup = FollowedWarmup("", "", config.values()) if after_warmup else None
    record = recorded_parameters(config, plan.stage) | ({} if warmup is None else warmup_settings(warmup))
    declared = options()
    kept = {
        name: value
        for name, value in record.items()
        if name != "seed" and not (declared[name].machine or declared[name].reference)
    }
    provenance = Provenance(plan.stage, record, asdict(plan.options), [], [], warmup, plan.method)
    return {
        "mm.method": plan.method,
        **{f"config/{name}": format_value(value) for name, value in kept.items()},
        **provenance.parameters(),
    }


def jobs(tables: Sequence[Table], base: Mapping[str, Any], seeds: Iterable[int]) -> list[Job]:
    """Return every distinct training of the tables once, seed by seed, in the order of the tables; without warm-ups.

    Args:
        tables: the tables.
        base: parameters that all rows have in common, see ``base_settings``.
        seeds: seeds of every row.

    Raises:
        UserError: settings of a row are incompatible.
    """
    found: dict[tuple[tuple[str, str], ...], Job] = {}
    for table in tables:
        for row in table.rows:
            config, place = configuration(row, base, 0), Place(table.name, row.group, row.name)
            job = Job(config, row.after_warmup, (place,), settings_of(config, after_warmup=row.after_warmup))
            key = tuple(sorted(job.settings.items()))
            found[key] = replace(found[key], places=found[key].places + job.places) if key in found else job
    return [replace(job, config=job.config.replace(seed=seed)) for seed in seeds for job in found.values()]


def with_warmups(rows: Iterable[Job]) -> list[Job]:
    """Return the jobs, each warm-up that they need before the first one that needs it."""
    ordered: list[Job] = []
    known: set[tuple[str, ...]] = set()
    for job in rows:
        if job.after_warmup and job.warmup_key not in known:
            known.add(job.warmup_key)
            ordered.append(Job(job.config, after_warmup=False, places=job.places[:1], settings={}, is_warmup=True))
        ordered.append(job)
    return ordered
