"""What a study is, as its storage keeps it: all that a worker anywhere has to know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mm_balance
from mm_balance.config import (
    ADAPTIVE_METHOD,
    SEARCHES,
    Config,
    Dimension,
    Option,
    StudyConfig,
    format_value,
    search_space,
    stage_options,
    validate,
    warmup_parameters,
)
from mm_balance.config import options as run_options
from mm_balance.errors import UserError
from mm_balance.methods import find_method, parse_options
from mm_balance.methods.options import declared_options
from mm_balance.workflow.provenance import training_code

OBJECTIVES = {
    "val/accuracy": "maximize",
    "val/macro_f1": "maximize",
    "val/mean_average_precision": "maximize",
    "val/loss": "minimize",
    "val/gap_mean_abs": "minimize",
    "val/imbalance_degree": "minimize",
}
"""What may be optimized, and its direction. Nothing of the test split."""
DEFAULT_OBJECTIVE = "val/accuracy"
SHARED = "it belongs to the warm-up, and all trials of a study share one warm-up run per seed"
DIGITS = 4
SEARCHED_GROUPS = ("model", "optimization", "stage", "adaptive", "gap_mixture")
"""Groups of parameters that a study may search, as far as they apply to its trials; lengths of stages are left out."""


@dataclass(frozen=True)
class Settings:
    """A study's settings; they never change once it is made.

    Attributes:
        version: of MM-Balance.
        code: digest of the sources that train, see ``training_code``.
        values: filled parameters of training (see ``config.apply_preset``), what ``space`` fixed included.
        dimensions: what is searched, by name.
        objectives: one or two metrics.
        sampler, pruner: as of ``StudyConfig``.
        threads: of every trial on a CPU: results depend on them, so all workers use as many.
        data_digest: of the data set.
        warmups: seed (as text) -> id of the warm-up run that every trial of that seed begins from; chosen when the study is made.
    """

    version: str
    code: str
    values: dict[str, Any]
    dimensions: dict[str, Dimension]
    objectives: tuple[str, ...]
    sampler: str
    pruner: str
    threads: int
    data_digest: str
    warmups: dict[str, str] = field(default_factory=dict)

    @property
    def directions(self) -> list[str]:
        return [OBJECTIVES[name] for name in self.objectives]

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not pruned."""
        return self.values["adaptive_epochs" if self.adaptive else "epochs"]

    @property
    def adaptive(self) -> bool:
        """Whether trials are stage 2 as `adaptive` trains it, not another method's stage."""
        return self.values["method"] == ADAPTIVE_METHOD

    def config(self, parameters: Mapping[str, Any], **changes: Any) -> Config:
        """The configuration of a trial with these ``parameters``, from the warm-up run of its seed.

        Raises:
            UserError: they cannot work together.
        """
        own = own_options(self.values["method"])
        parameters = rounded(parameters)
        plain = {name: value for name, value in parameters.items() if name not in own}
        chosen = {own[name]: value for name, value in parameters.items() if name in own}
        values = self.values | plain | changes
        if values["seed"] != self.values["seed"]:
            values["warmup_run"] = None  # the one that the user named is of the study's own seed
        values["warmup_run"] = self.warmups.get(str(values["seed"]), values["warmup_run"])
        if chosen:
            method = values["method"]
            merged = parse_options(method, find_method(method).Options, values["method_options"]) | chosen
            values["method_options"] = ",".join(f"{name}={format_value(value)}" for name, value in merged.items())
        return validate(values)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The inverse of ``to_json``."""
        read = json.loads(text)
        dimensions = {
            name: Dimension(**{**item, "choices": tuple(item["choices"])}) for name, item in read["dimensions"].items()
        }
        return cls(**{**read, "dimensions": dimensions, "objectives": tuple(read["objectives"])})

    def digest(self) -> str:
        """Six letters that stand for all settings."""
        declared = run_options()
        values = {name: value for name, value in self.values.items() if not declared[name].machine}
        return hashlib.sha256(replace(self, threads=0, values=values, warmups={}).to_json().encode()).hexdigest()[:6]

    def differences(self, other: Settings) -> list[str]:
        """In which settings another one differs, as text."""
        told = []
        for name in ("version", "code", "objectives", "sampler", "pruner", "data_digest"):
            if getattr(self, name) != getattr(other, name):
                told.append(f"{name} {getattr(self, name)} (not {getattr(other, name)})")
        declared = run_options()
        for name, value in self.values.items():
            if value != other.values.get(name) and not declared[name].machine:
                told.append(f"{name}={format_value(value)} (not {format_value(other.values.get(name))})")
        mine, its = ({str(item) for item in settings.dimensions.values()} for settings in (self, other))
        return told + [f"search {' and '.join(sorted(mine - its)) or 'without ' + ', '.join(sorted(its - mine))}"] * (
            mine != its
        )


def rounded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Drawn values as they are trained with: four significant digits, so that the printed line trains the very same."""
    return {
        name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in parameters.items()
    }


def new_settings(
    study: StudyConfig, filled: Mapping[str, Any], *, threads: int, data_digest: str, given: set[str]
) -> Settings:
    """Settings from what the user asked for.

    Args:
        study: the study's own parameters.
        filled: parameters of training, filled from the preset.
        threads: of every trial on a CPU.
        data_digest: of the data set.
        given: parameters of training that the user has set to another value than the declared default.

    Raises:
        UserError: an objective, search or dimension that cannot be used.
    """
    values = {**filled, "dataset": validate(filled).data.dataset}  # absolute: workers may start in other folders
    known = searchable(values)
    excluded = dict.fromkeys(warmup_parameters(), SHARED) if warmup_is_shared(values) else {}
    names = _named(study.search, values, known)
    configured = configured_values(values)
    dimensions, fixed = search_space(names, study.space, known, configured, given, excluded)
    made = Settings(
        version=mm_balance.__version__,
        code=training_code(find_method(values["method"])),
        values=values,
        dimensions=dimensions,
        objectives=parse_objectives(study.objective),
        sampler=study.sampler,
        pruner="none" if "," in study.objective else study.pruner,
        threads=threads,
        data_digest=data_digest,
    )
    if fixed:  # through the same door as a trial's parameters: options of methods are written into their text
        config = made.config(fixed)
        resolved = config.values()
        changed = {name: resolved[name] for name in ("method_options", *fixed) if name in resolved}
        made = replace(made, values=values | changed)
    return made


def parse_objectives(text: str) -> tuple[str, ...]:
    """``val/accuracy`` or two with a comma. Raises UserError for what may not be optimized."""
    names = tuple(part.strip() for part in (DEFAULT_OBJECTIVE if text == "auto" else text).split(","))
    for name in names:
        if name.startswith("test/"):
            raise UserError(f"objective={name}: nothing is ever chosen on test data; use val/{name[5:]}")
        if name not in OBJECTIVES:
            raise UserError(f"objective={name} is not known; give one or two of {', '.join(OBJECTIVES)}")
    if len(names) > 2 or len(set(names)) < len(names):
        raise UserError(f"objective={text}: give one metric, or two different ones")
    return names


def searchable(values: Mapping[str, Any]) -> dict[str, Option]:
    """Every parameter that a study of ``values`` may search: those of the trial's stage, and the options of its method.

    What a warm-up run depends on is left out where trials share one.
    """
    stage = "adaptive" if values["method"] == ADAPTIVE_METHOD else "train"
    # The optimizer's state can be kept or reset where there is one: after a warm-up.
    barred = set(warmup_parameters()) if warmup_is_shared(values) else {"optimizer_state"}
    known = {
        name: option
        for name, option in stage_options(stage).items()
        if option.group in SEARCHED_GROUPS and name not in barred and not option.may_grow
    }
    declared = declared_options(find_method(values["method"]).Options)
    return known | {
        name: replace(declared[option], name=name) for name, option in own_options(values["method"]).items()
    }


def own_options(method: str) -> dict[str, str]:
    """The options of a method by their name in a study: their own, or ``method.name`` where a parameter has that name.

    Those of the adaptive loss are parameters already.
    """
    if method == ADAPTIVE_METHOD:
        return {}
    taken = stage_options("train")
    chosen = find_method(method)
    declared = declared_options(chosen.Options)
    return {f"{chosen.name}.{name}" if name in taken else name: name for name in declared}


def warmup_is_shared(values: Mapping[str, Any]) -> bool:
    """Whether trials begin from a warm-up run."""
    return values["warmup_run"] is not None or find_method(values["method"]).needs_warmup


def _named(search: str, values: Mapping[str, Any], known: Mapping[str, Option]) -> list[str]:
    """The parameters that a named search holds, as far as this study can search them."""
    if search == "space":
        return []
    method = values["method"]
    if search == "method":
        own = own_options(method) or dict.fromkeys(declared_options(find_method(method).Options))
        names = [name for name in own if known[name].search is not None]
        if not names:
            raise UserError(
                f"method={method} declares no search ranges of its own; name dimensions in space=, or another search"
            )
        return names
    asked = [name for name, option in run_options().items() if option.searched_by in SEARCHES[search]]
    names = [name for name in asked if name in known]
    if search != "optimizer" and values["method"] != ADAPTIVE_METHOD:
        raise UserError(
            f"search={search} is about {ADAPTIVE_METHOD}; for method={method} give search=method, optimizer or space"
        )
    return names


def configured_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every searchable parameter as configured."""
    known, resolved = searchable(values), validate(values).values()
    own = parse_options(values["method"], find_method(values["method"]).Options, values["method_options"])
    names = own_options(values["method"])
    return {
        name: own.get(names[name], option.default) if name in names else resolved[name]
        for name, option in known.items()
    }


def automatic_name(study: StudyConfig, settings: Settings) -> str:
    """``digits-gap_mixture-weights-1a2b3c``: the same for the same settings."""
    method = find_method(settings.values["method"]).name
    return "-".join([Path(settings.values["dataset"]).stem, method, study.search, settings.digest()])
