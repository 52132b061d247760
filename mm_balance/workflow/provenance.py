"""What a run was trained with: the parameters that apply, code and kind of machine; and the digests by which runs are found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import mm_balance
from mm_balance import names
from mm_balance.config import (
    GROUPS,
    Config,
    MethodOptions,
    Option,
    format_value,
    options,
    stage_options,
    warmup_parameters,
)
from mm_balance.data import MultimodalData
from mm_balance.imports import outside_sources, python_files
from mm_balance.methods import Method, find_method
from mm_balance.tracking.environment import git_state
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.setup import HELD_OUT_SEED, resolve_device

TRAINING_SOURCES = ("data", "engine", "functional", "methods", "models", "seeding.py", "types.py", "workflow/stage.py")
"""What of the package decides the weights that training ends with."""

Circumstances = dict[str, str | int]
"""``code``: digest of the training code; ``device``: ``cpu`` or ``cuda``; ``threads``: of a CPU, on which sums depend, else 0."""


@cache
def code_digest() -> str:
    """SHA-256 of the sources that train, in hex; the same for the same text, however its lines end."""
    root = Path(mm_balance.__file__).parent
    return _digest_of_sources(root, _training_sources(root))


def training_code(method: type[Method]) -> str:
    """``code_digest``, and for a method outside this package the sources of its package (or module) with it.

    What these import from elsewhere is not in it.
    """
    outside = [_outside_digest(source) for source in outside_sources(method, Method)]
    return hashlib.sha256(" ".join([code_digest(), *outside]).encode()).hexdigest() if outside else code_digest()


@cache
def _outside_digest(source: Path) -> str:
    """Of a folder or a file when the process first asks: what is edited while it trains is not what it trains with."""
    return _digest_of_sources(source.parent, python_files(source))


def _digest_of_sources(root: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def _training_sources(root: Path) -> Iterator[Path]:
    for name in TRAINING_SOURCES:
        yield from (root / name).rglob("*.py") if (root / name).is_dir() else (root / name,)


def circumstances(device: str, method: type[Method] | None = None) -> Circumstances:
    """What this process trains ``method`` (None: any of this package) with on ``device`` (the parameter's value)."""
    kind = resolve_device(device).type
    code = code_digest() if method is None else training_code(method)
    return {"code": code, "device": kind, "threads": torch.get_num_threads() if kind == "cpu" else 0}


def applied(config: Config, stage: str) -> dict[str, Any]:
    """The parameters that apply to a kind of training run, by name, as resolved: what it records, and nothing that it lacks.

    Args:
        config: the configuration.
        stage: key of ``STAGES``.
    """
    values = config.values()
    method = values["method"]
    return {name: values[name] for name, option in stage_options(stage).items() if _recorded(option, method, stage)}


def _recorded(option: Option, method: str, stage: str) -> bool:
    if issubclass(GROUPS[option.group], MethodOptions) and option.group != method:
        return False
    # A study's workers have devices of their own; which run was continued is said where it is continued.
    return not (option.one_process and (option.reference or stage == "study"))


def warmup_settings(warmup: FollowedWarmup) -> dict[str, Any]:
    """The parameters of stage 1 by name, as the warm-up run had them."""
    return {name: warmup.settings[name] for name, option in options().items() if option.group == "warmup"}


def fingerprint(config: Config, data: MultimodalData) -> str:
    """What a warm-up run of ``config``, trained on ``data`` by a process like this one, depends on; as SHA-256.

    Equal fingerprint = interchangeable: data with the training samples in their order, model, optimizer and warm-up parameters,
    seed, precision, training code, kind of device, threads of a CPU.
    """
    return _fingerprint(config.values(), data, [circumstances(config.run.device)])


def _fingerprint(values: Mapping[str, Any], data: MultimodalData, trained_by: Sequence[Circumstances]) -> str:
    settings = {name: values[name] for name in warmup_parameters()}
    return _digest({**settings, **_samples_of(data), "trained_by": list(trained_by)})


@dataclass(frozen=True)
class FollowedWarmup:
    """The warm-up run that a stage began from, as that run says of itself.

    Attributes:
        run_id: its id.
        fingerprint: what it depends on.
        settings: its ``config.json``.
    """

    run_id: str
    fingerprint: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, run: TrackedRun) -> FollowedWarmup:
        """Read from the run."""
        return cls(run.run_id, run.read().data.tags.get("mm.fingerprint", ""), run.read_json(names.CONFIG_FILE))


@dataclass(frozen=True)
class Provenance:
    """All that the run of a stage says of how it was trained. Kept in its checkpoints, so that it outlives a process.

    Attributes:
        entry_point: whose parameters apply.
        config: these parameters, by name; of a stage after a warm-up, with those of the warm-up that was used.
        options: of the method, as resolved.
        trained_by: what it was trained with; more than one entry where a run was continued with something else.
        grown: one sentence for each time that the run was continued with more epochs than were planned before.
        warmup: the warm-up that it began from.
        method: its method.
    """

    entry_point: str
    config: dict[str, Any]
    options: dict[str, Any]
    trained_by: list[Circumstances]
    grown: list[str]
    warmup: FollowedWarmup | None
    method: str = ""

    @classmethod
    def new(cls, plan: StagePlan, method: Method, warmup: FollowedWarmup | None) -> Provenance:
        """Of a stage that begins now."""
        record = applied(plan.config, plan.stage)
        if warmup is not None:
            record |= warmup_settings(warmup) | {"warmup_run": warmup.run_id}
        trained_by = circumstances(plan.config.run.device, type(method))
        return cls(plan.stage, record, asdict(method.options), [trained_by], [], warmup, method.name)

    def continued(self, plan: StagePlan, method: Method, epoch: int) -> Provenance:
        """Of the same stage that goes on now, with ``plan``, after ``epoch`` epochs in all."""
        now = Provenance.new(plan, method, self.warmup)
        declared = options()
        longer = [
            f"{name} {self.config[name]} -> {value} after epoch {epoch}"
            for name, value in now.config.items()
            if declared[name].may_grow and value != self.config[name]
        ]
        trained_by = [*self.trained_by, *(item for item in now.trained_by if item != self.trained_by[-1])]
        return Provenance(
            self.entry_point, now.config, now.options, trained_by, [*self.grown, *longer], self.warmup, method.name
        )

    def to_state(self) -> dict[str, Any]:
        """As primitives, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Provenance:
        """The inverse of ``to_state``."""
        warmup = state["warmup"]
        return cls(**{**state, "warmup": None if warmup is None else FollowedWarmup(**warmup)})

    def fingerprint(self, data: MultimodalData) -> str | None:
        """Of the warm-up that the run is or began from; None where there is none.

        A warm-up that grew is the warm-up of its last length: nothing in it depends on how long it was meant to be.
        """
        if self.entry_point == "warmup":
            return _fingerprint(self.config, data, self.trained_by)
        return None if self.warmup is None else self.warmup.fingerprint

    def settings_digest(self, data: MultimodalData) -> str:
        """SHA-256 of everything that the result depends on: equal digest = the same training, which need not be done again."""
        declared = options()
        # The warm-up is identified by its fingerprint, the method's options by their values, and so on.
        left_out = {name for name, item in declared.items() if item.machine or item.reference}
        return _digest(
            {
                "entry_point": self.entry_point,
                "method": self.method,
                "config": {name: value for name, value in self.config.items() if name not in left_out},
                "options": self.options,
                "warmup": self.fingerprint(data),
                "trained_by": self.trained_by,
                # Schedules that depend on the length of a stage were those of another length before.
                "grown": [] if self.entry_point == "warmup" else self.grown,
                **_samples_of(data),
            }
        )

    def tags(self, data: MultimodalData, stage: str, method: Method) -> dict[str, str]:
        """The tags by which runs are found and compared: all but those that say how a run went."""
        found = self.fingerprint(data)
        return {
            **stage_tags(data, stage, self.config["seed"], method),
            "mm.settings": self.settings_digest(data),
            **({"mm.fingerprint": found} if found else {}),
            **({"mm.warmup_run": self.warmup.run_id} if self.warmup else {}),
            **({"mm.grown": "; ".join(self.grown)} if self.grown else {}),
            **({"mm.mixed": mixture_of(self.trained_by)} if len(self.trained_by) > 1 else {}),
        }

    def parameters(self) -> dict[str, str]:
        """The method's options, ``method/<name>``, where they are not among the parameters already."""
        if self.entry_point == "warmup" or self.options.keys() <= self.config.keys():
            return {}
        return {f"method/{name}": format_value(value) for name, value in self.options.items()}

    def foreign_warmup(self) -> dict[str, str]:
        """``warmup/<name>``: in which settings the warm-up that was used differs from what stage 2 says of itself."""
        if self.warmup is None:
            return {}
        theirs = {name: self.warmup.settings[name] for name in warmup_parameters() if name in self.warmup.settings}
        return {
            f"warmup/{name}": format_value(value)
            for name, value in theirs.items()
            if name in self.config and value != self.config[name]
        }


def expected_settings(plan: StagePlan, data: MultimodalData, *, after_warmup: bool) -> str:
    """The tag ``mm.settings`` that a run would have if a process like this one trained it now.

    Args:
        plan: what it would train.
        data: what it would be trained on.
        after_warmup: whether it begins from the warm-up run of ``plan.config``.
    """
    config = plan.config
    built = find_method(plan.method)(plan.options, tuple(data.specs), 0)
    warmup = FollowedWarmup("", fingerprint(config, data), config.values()) if after_warmup else None
    trained_on = data.with_held_out(built.held_out, seed=HELD_OUT_SEED)
    return Provenance.new(plan, built, warmup).settings_digest(trained_on)


def stage_tags(data: MultimodalData, stage: str, seed: int, method: Method) -> dict[str, str]:
    """What any run of training says of itself: stage, data, seed, code, and what the method says."""
    git = git_state()
    return {
        "mm.stage": stage,
        "mm.method": method.name,
        "mm.dataset": data.name,
        "mm.data_digest": data.digest,
        "mm.seed": str(seed),
        "mm.version": mm_balance.__version__,
        "mm.code": training_code(type(method)),
        "mm.git_dirty": str(git["dirty"]),
        **({"mlflow.source.git.commit": git["commit"]} if git["commit"] else {}),
        **({"mm.unimodal": "branches"} if method.sees_others() else {}),
        **method.tags(),
    }


def mixture_of(trained_by: Sequence[Circumstances]) -> str:
    """In what the processes that trained one run differ: ``code, threads``."""
    return ", ".join(name for name in trained_by[0] if len({item[name] for item in trained_by}) > 1)


def _samples_of(data: MultimodalData) -> dict[str, str]:
    return {"data": data.digest, "samples": data.splits["train"].samples_digest}


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
