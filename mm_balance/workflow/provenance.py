"""Provenance of a run: applicable parameters, code and kind of machine, and the digests by which runs are found."""

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
from mm_balance.imports import import_function, outside_sources, python_files, sources_of_modules
from mm_balance.methods import Method, find_method
from mm_balance.tracking.environment import git_state
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.pretrained import encoders_of, weight_digests
from mm_balance.workflow.setup import HELD_OUT_SEED, resolve_device

TRAINING_SOURCES = (
    "data", "engine", "functional", "methods", "models", "seeding.py", "types.py",
    "workflow/build.py", "workflow/plans.py", "workflow/pretrained.py", "workflow/stage.py",
)  # fmt: skip
"""Files and folders of the package that determine the trained weights."""

Circumstances = dict[str, str | int]
"""``code``: digest of the training code; ``device``: ``cpu`` or ``cuda``; ``threads``: CPU threads, which affect sums, 0 on CUDA;
``weights``: digest of pretrained weights, if there are any."""


@cache
def code_digest() -> str:
    """Return the SHA-256 of the training sources, in hex, independent of line endings."""
    root = Path(mm_balance.__file__).parent
    return _digest_of_sources(root, _training_sources(root))


def training_code(method: type[Method] | None, config: Config) -> str:
    """Return ``code_digest``, combined with the sources of the packages (or modules) of methods and encoders outside this package.

    Further imports of those sources are not included.

    Args:
        method: the method; None = any of this package.
        config: names the encoders.
    """
    sources = () if method is None else outside_sources(method, Method)
    builders = [import_function(spec.builder, f"encoder={spec.name}") for spec in encoders_of(config).values()]
    sources += sources_of_modules(builder.__module__ for builder in builders)
    outside = [_outside_digest(source) for source in dict.fromkeys(sources)]
    return hashlib.sha256(" ".join([code_digest(), *outside]).encode()).hexdigest() if outside else code_digest()


@cache
def _outside_digest(source: Path) -> str:
    """Return the digest of a folder or file; cached, because edits during training do not affect the running process."""
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


def circumstances(config: Config, method: type[Method] | None = None) -> Circumstances:
    """Return what this process trains ``method`` (None: any of this package) with, as ``config`` says."""
    kind = resolve_device(config.run.device).type
    weights = weight_digests(config)
    return {
        "code": training_code(method, config),
        "device": kind,
        "threads": torch.get_num_threads() if kind == "cpu" else 0,
        **({"weights": " ".join(f"{name}:{digest}" for name, digest in weights.items())} if weights else {}),
    }


def recorded_parameters(config: Config, stage: str) -> dict[str, Any]:
    """Return the resolved parameters that a kind of training run records, by name: those that apply to it.

    Args:
        config: the configuration.
        stage: key of ``STAGES``.
    """
    values = config.values()
    method = values["method"]
    return {name: values[name] for name, option in stage_options(stage).items() if _is_recorded(option, method, stage)}


def _is_recorded(option: Option, method: str, stage: str) -> bool:
    if issubclass(GROUPS[option.group], MethodOptions) and option.group != method:
        return False
    # Each worker of a study has its own device, and a resumed run is recorded when it is resumed.
    return not (option.one_process and (option.reference or stage == "study"))


def warmup_settings(warmup: FollowedWarmup) -> dict[str, Any]:
    """Return the parameters of stage 1 that the warm-up run was trained with, by name."""
    return {name: warmup.settings[name] for name, option in options().items() if option.group == "warmup"}


def fingerprint(config: Config, data: MultimodalData) -> str:
    """Return the SHA-256 of everything that a warm-up of ``config``, trained on ``data`` by this process, depends on.

    Equal fingerprint = interchangeable. It covers data with the training samples in their order, model, optimizer and warm-up
    parameters, seed, precision, training code, kind of device, threads of a CPU.
    """
    return _fingerprint(config.values(), data, [circumstances(config)])


def _fingerprint(values: Mapping[str, Any], data: MultimodalData, trained_by: Sequence[Circumstances]) -> str:
    settings = {name: values[name] for name in warmup_parameters()}
    return _digest({**settings, **_samples_of(data), "trained_by": list(trained_by)})


@dataclass(frozen=True)
class FollowedWarmup:
    """The warm-up run that a stage started from, as recorded on that run.

    Attributes:
        run_id: its id.
        fingerprint: its tag ``mm.fingerprint``.
        settings: its ``config.json``.
    """

    run_id: str
    fingerprint: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, run: TrackedRun) -> FollowedWarmup:
        """Read it from the run."""
        return cls(run.run_id, run.read().data.tags.get("mm.fingerprint", ""), run.saved_config())


@dataclass(frozen=True)
class Provenance:
    """How the run of a stage was trained. Stored in its checkpoints, so that it survives the process.

    Attributes:
        entry_point: stage whose parameters apply, a key of ``STAGES``.
        config: these parameters, by name; after a warm-up, including those of the warm-up.
        options: resolved options of the method.
        trained_by: code, device and threads it was trained with; several entries if the run was resumed with different ones.
        grown: one sentence for each time the run was resumed with more epochs than planned before.
        warmup: the warm-up that it started from.
        method: name of the method.
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
        """Create the provenance of a stage that starts now."""
        record = recorded_parameters(plan.config, plan.stage)
        if warmup is not None:
            record |= warmup_settings(warmup) | {"warmup_run": warmup.run_id}
        trained_by = circumstances(plan.config, type(method))
        return cls(plan.stage, record, asdict(method.options), [trained_by], [], warmup, method.name)

    def continued(self, plan: StagePlan, method: Method, epoch: int) -> Provenance:
        """Return the provenance of the same stage resumed now, with ``plan``, after ``epoch`` epochs in total."""
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
        """Convert to primitives, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Provenance:
        """The inverse of ``to_state``."""
        warmup = state["warmup"]
        return cls(**{**state, "warmup": None if warmup is None else FollowedWarmup(**warmup)})

    def fingerprint(self, data: MultimodalData) -> str | None:
        """Return the fingerprint of the warm-up that the run is or started from; None if there is none.

        An extended warm-up equals one planned with its final length: nothing in it depends on the planned length.
        """
        if self.entry_point == "warmup":
            return _fingerprint(self.config, data, self.trained_by)
        return None if self.warmup is None else self.warmup.fingerprint

    def settings_digest(self, data: MultimodalData) -> str:
        """Return the SHA-256 of everything that the result depends on: equal digest = the same training, no need to repeat it."""
        declared = options()
        # Their content is covered otherwise: the warm-up by its fingerprint, the method's options by their values, and so on.
        excluded = {name for name, item in declared.items() if item.machine or item.reference}
        return _digest(
            {
                "entry_point": self.entry_point,
                "method": self.method,
                "config": {name: value for name, value in self.config.items() if name not in excluded},
                "options": self.options,
                "warmup": self.fingerprint(data),
                "trained_by": self.trained_by,
                # Schedules depend on the length of a stage, so earlier epochs used those of another length.
                "grown": [] if self.entry_point == "warmup" else self.grown,
                **_samples_of(data),
            }
        )

    def tags(self, data: MultimodalData, stage: str, method: Method) -> dict[str, str]:
        """Return the tags by which runs are found and compared: all except those that describe the outcome."""
        warmup_fingerprint = self.fingerprint(data)
        return {
            **stage_tags(data, stage, self.config["seed"], method, str(self.trained_by[-1]["code"])),
            "mm.settings": self.settings_digest(data),
            **({"mm.fingerprint": warmup_fingerprint} if warmup_fingerprint else {}),
            **({"mm.warmup_run": self.warmup.run_id} if self.warmup else {}),
            **({"mm.grown": "; ".join(self.grown)} if self.grown else {}),
            **({"mm.mixed": mixed_circumstances(self.trained_by)} if len(self.trained_by) > 1 else {}),
        }

    def parameters(self) -> dict[str, str]:
        """Return the method's options as ``method/<name>``, unless they are already among the parameters."""
        if self.entry_point == "warmup" or self.options.keys() <= self.config.keys():
            return {}
        return {f"method/{name}": format_value(value) for name, value in self.options.items()}

    def warmup_differences(self) -> dict[str, str]:
        """Return, as ``warmup/<name>``, the settings of the warm-up that differ from those of this stage."""
        if self.warmup is None:
            return {}
        settings = {name: self.warmup.settings[name] for name in warmup_parameters() if name in self.warmup.settings}
        return {
            f"warmup/{name}": format_value(value)
            for name, value in settings.items()
            if name in self.config and value != self.config[name]
        }


def expected_settings(plan: StagePlan, data: MultimodalData, *, after_warmup: bool) -> str:
    """Return the tag ``mm.settings`` of a run as if this process trained it now.

    Args:
        plan: what to train.
        data: the data set.
        after_warmup: whether it starts from the warm-up run of ``plan.config``.
    """
    config = plan.config
    method = find_method(plan.method)(plan.options, tuple(data.specs), 0)
    warmup = FollowedWarmup("", fingerprint(config, data), config.values()) if after_warmup else None
    trained_on = data.with_held_out(method.held_out, seed=HELD_OUT_SEED)
    return Provenance.new(plan, method, warmup).settings_digest(trained_on)


def stage_tags(data: MultimodalData, stage: str, seed: int, method: Method, code: str) -> dict[str, str]:
    """Return the tags of any training run: stage, data, seed, code, and those of the method."""
    git = git_state()
    return {
        "mm.stage": stage,
        "mm.method": method.name,
        "mm.dataset": data.name,
        "mm.data_digest": data.digest,
        "mm.seed": str(seed),
        "mm.version": mm_balance.__version__,
        "mm.code": code,
        "mm.git_dirty": str(git["dirty"]),
        **({"mlflow.source.git.commit": git["commit"]} if git["commit"] else {}),
        **({"mm.unimodal": "branches"} if method.sees_others() else {}),
        **method.tags(),
    }


def mixed_circumstances(trained_by: Sequence[Circumstances]) -> str:
    """Return in what the processes that trained one run differ, as in ``code, threads``."""
    return ", ".join(name for name in trained_by[0] if len({item.get(name) for item in trained_by}) > 1)


def _samples_of(data: MultimodalData) -> dict[str, str]:
    return {"data": data.digest, "samples": data.splits["train"].samples_digest}


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
