"""Settings of a study, as kept in its storage: everything that a worker on any machine needs."""

from __future__ import annotations

import hashlib
import json
import re
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
"""Permitted objectives -> direction. None is computed on the test split."""
DEFAULT_OBJECTIVE = "val/accuracy"
SHARED = "it belongs to the warm-up, and all trials of a study share one warm-up run per seed"
DIGITS = 4
LONGEST_DATASET = 40
"""Characters of a data set in the name of a study."""
SEARCHED_GROUPS = ("model", "optimization", "stage", "adaptive", "gap_mixture")
"""Groups of parameters that a study may search if they apply to its trials; stage lengths are excluded."""


@dataclass(frozen=True)
class Settings:
    """Settings of a study, which never change after its creation.

    Attributes:
        version: version of MM-Balance.
        code: digest of the training sources, see ``training_code``.
        values: training parameters (see ``config.apply_preset``), including those fixed by ``space``.
        dimensions: searched dimensions, by name.
        objectives: one or two metrics.
        sampler, pruner: as in ``StudyConfig``.
        threads: threads of every trial on a CPU; the same for all workers, because results depend on it.
        data_digest: digest of the data set.
        warmups: seed (as text) -> id of the warm-up run of all trials with that seed; chosen when the study is created.
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
        """Epochs of an unpruned trial."""
        return self.values["adaptive_epochs" if self.adaptive else "epochs"]

    @property
    def adaptive(self) -> bool:
        """Whether trials train stage 2 as `adaptive` does, rather than a stage of another method."""
        return self.values["method"] == ADAPTIVE_METHOD

    def config(self, parameters: Mapping[str, Any], **changes: Any) -> Config:
        """Return the configuration of a trial with these ``parameters``, starting from the warm-up run of its seed.

        Raises:
            UserError: the values are incompatible.
        """
        option_names = method_option_names(self.values["method"])
        parameters = rounded(parameters)
        run_parameters = {name: value for name, value in parameters.items() if name not in option_names}
        chosen = {option_names[name]: value for name, value in parameters.items() if name in option_names}
        values = self.values | run_parameters | changes
        if values["seed"] != self.values["seed"]:
            values["warmup_run"] = None  # the one given by the user has the study's own seed
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
        """Return six hexadecimal digits that identify the settings."""
        declared = run_options()
        values = {name: value for name, value in self.values.items() if not declared[name].machine}
        return hashlib.sha256(replace(self, threads=0, values=values, warmups={}).to_json().encode()).hexdigest()[:6]

    def differences(self, other: Settings) -> list[str]:
        """Describe the settings in which ``other`` differs, one string each."""
        lines = []
        for name in ("version", "code", "objectives", "sampler", "pruner", "data_digest"):
            if getattr(self, name) != getattr(other, name):
                lines.append(f"{name} {getattr(self, name)} (not {getattr(other, name)})")
        declared = run_options()
        for name, value in self.values.items():
            if value != other.values.get(name) and not declared[name].machine:
                lines.append(f"{name}={format_value(value)} (not {format_value(other.values.get(name))})")
        own, others = ({str(item) for item in settings.dimensions.values()} for settings in (self, other))
        return lines + [
            f"search {' and '.join(sorted(own - others)) or 'without ' + ', '.join(sorted(others - own))}"
        ] * (own != others)


def rounded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Round drawn values to four significant digits before training, so that the printed command trains exactly the same."""
    return {
        name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in parameters.items()
    }


def new_settings(
    study: StudyConfig, filled: Mapping[str, Any], *, threads: int, data_digest: str, given: set[str]
) -> Settings:
    """Create the settings of a new study.

    Args:
        study: the study's own parameters.
        filled: training parameters, with the preset applied.
        threads: threads of every trial on a CPU.
        data_digest: digest of the data set.
        given: training parameters that the user has set.

    Raises:
        UserError: an objective, search or dimension that cannot be used.
    """
    values = {**filled, "dataset": validate(filled).data.dataset}  # absolute: workers may start in another folder
    known = searchable(values)
    excluded = dict.fromkeys(warmup_parameters(), SHARED) if warmup_is_shared(values) else {}
    names = _search_parameters(study.search, values, known)
    configured = configured_values(values)
    dimensions, fixed = search_space(names, study.space, known, configured, given, excluded)
    settings = Settings(
        version=mm_balance.__version__,
        code=training_code(find_method(values["method"]), validate(filled)),
        values=values,
        dimensions=dimensions,
        objectives=parse_objectives(study.objective),
        sampler=study.sampler,
        pruner="none" if "," in study.objective else study.pruner,
        threads=threads,
        data_digest=data_digest,
    )
    if fixed:  # handled like a trial's parameters: options of the method become part of ``method_options``
        config = settings.config(fixed)
        resolved = config.values()
        changed = {name: resolved[name] for name in ("method_options", *fixed) if name in resolved}
        settings = replace(settings, values=values | changed)
    return settings


def parse_objectives(text: str) -> tuple[str, ...]:
    """Parse one objective, or two separated by a comma. Raises UserError for one that is not permitted."""
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
    """Return every parameter that a study of ``values`` may search: those of the trial's stage, and the options of its method.

    Parameters that affect the warm-up are excluded if trials share one.
    """
    stage = "adaptive" if values["method"] == ADAPTIVE_METHOD else "train"
    # Without a warm-up there is no optimizer state to keep or reset.
    excluded = set(warmup_parameters()) if warmup_is_shared(values) else {"optimizer_state"}
    known = {
        name: option
        for name, option in stage_options(stage).items()
        if option.group in SEARCHED_GROUPS and name not in excluded and not option.may_grow
    }
    declared = declared_options(find_method(values["method"]).Options)
    return known | {
        name: replace(declared[option], name=name) for name, option in method_option_names(values["method"]).items()
    }


def method_option_names(method: str) -> dict[str, str]:
    """Return the options of a method by their names in a study: ``name``, or ``method.name`` if a parameter has that name.

    Empty for the adaptive loss, whose options are run parameters.
    """
    if method == ADAPTIVE_METHOD:
        return {}
    parameters = stage_options("train")
    method_class = find_method(method)
    declared = declared_options(method_class.Options)
    return {f"{method_class.name}.{name}" if name in parameters else name: name for name in declared}


def warmup_is_shared(values: Mapping[str, Any]) -> bool:
    """Whether trials start from a warm-up run."""
    return values["warmup_run"] is not None or find_method(values["method"]).needs_warmup


def _search_parameters(search: str, values: Mapping[str, Any], known: Mapping[str, Option]) -> list[str]:
    """Return the parameters of a named search that this study can search."""
    if search == "space":
        return []
    method = values["method"]
    if search == "method":
        candidates = method_option_names(method) or dict.fromkeys(declared_options(find_method(method).Options))
        names = [name for name in candidates if known[name].search is not None]
        if not names:
            raise UserError(
                f"method={method} declares no search ranges of its own; give dimensions in space=, or another search"
            )
        return names
    requested = [name for name, option in run_options().items() if option.searched_by in SEARCHES[search]]
    names = [name for name in requested if name in known]
    if search != "optimizer" and values["method"] != ADAPTIVE_METHOD:
        raise UserError(
            f"search={search} is about {ADAPTIVE_METHOD}; for method={method} give search=method, optimizer or space"
        )
    return names


def configured_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configured value of every searchable parameter."""
    known, resolved = searchable(values), validate(values).values()
    given = parse_options(values["method"], find_method(values["method"]).Options, values["method_options"])
    names = method_option_names(values["method"])
    return {
        name: given.get(names[name], option.default) if name in names else resolved[name]
        for name, option in known.items()
    }


def automatic_name(study: StudyConfig, settings: Settings) -> str:
    """Return a name such as ``digits-gap_mixture-weights-1a2b3c``, the same for the same settings."""
    method = find_method(settings.values["method"]).name
    dataset = settings.values["dataset"]
    stem = Path(dataset).stem if dataset.endswith(".csv") else dataset
    allowed = re.sub(r"^\.|[^\w.+-]", "-", stem)[:LONGEST_DATASET]
    return "-".join([allowed, method, study.search, settings.digest()])
