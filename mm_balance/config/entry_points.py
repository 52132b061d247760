"""Which parameters each entry point takes: command line, ``MLproject`` and README's tables follow from here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mm_balance.config.options import Option, options
from mm_balance.config.study import study_options

_COMMON = ("data", "model", "optimization", "run")

ENTRY_POINTS: dict[str, tuple[str, ...]] = {
    "main": (*_COMMON, "warmup", "stage2"),
    "warmup": (*_COMMON, "warmup"),
    "adaptive": (*_COMMON, "adaptive", "stage2"),
    "train": (*_COMMON, "train"),
    "evaluate": ("evaluate",),
    "prepare": ("prepare",),
    "study": (*_COMMON, "warmup", "adaptive", "train", "stage2", "study"),
    "worker": (),
}
"""Entry point -> groups of its parameters. Also see ``ENTRY_POINT_EXTRA``."""

ENTRY_POINT_EXTRA: dict[str, tuple[str, ...]] = {
    "train": ("warmup_run", "refit_every", "mixture", "optimizer_state"),
    "evaluate": ("data_dir", "device"),
    "prepare": (
        "dataset", "data_dir", "preset", "modalities", "protocol", "recipe", "clip_seconds", "audio_fit", "resampler",
        "audio_normalization", "image_size", "frames_per_second", "augment", "on_error",
    ),
    "worker": ("study_name", "storage", "device"),
}  # fmt: skip
"""Single parameters an entry point takes beside its groups (`evaluate` and `worker` take all else from run and study)."""

ENTRY_POINT_LESS: dict[str, tuple[str, ...]] = {"study": ("device", "resume_run")}
"""Single parameters of its groups that an entry point does not take: a study has `devices`, and goes on by itself."""

ENTRY_POINT_DEFAULTS: dict[str, dict[str, Any]] = {"study": {"method": "gap_mixture"}}
"""Where an entry point's default differs from the declared one."""

ENTRY_POINT_HELP: dict[str, str] = {
    "main": "The whole recipe: warm-up, adaptive training, evaluation, as one run with nested runs.",
    "warmup": "Stage 1, then the first survey of gaps and the first mixture fit.",
    "adaptive": "Stage 2 from a finished warm-up run.",
    "train": "Any method of the comparison, one stage, from scratch or after a warm-up run.",
    "evaluate": "The model of a finished run on one split.",
    "prepare": "From a raw download, or a manifest, to a verified, decoded store; does nothing the second time.",
    "study": "Optuna study on one worker process per device; the same command again continues it.",
    "worker": "One more worker of a study that `study` has made: for other machines and schedulers.",
}


def entry_point_options(entry_point: str) -> dict[str, Option]:
    """The parameters that ``entry_point`` takes, by name. Raises KeyError for an unknown entry point."""
    groups = ENTRY_POINTS[entry_point]
    extra = ENTRY_POINT_EXTRA.get(entry_point, ())
    less = ENTRY_POINT_LESS.get(entry_point, ())
    defaults = ENTRY_POINT_DEFAULTS.get(entry_point, {})
    taken: dict[str, Option] = {}
    for name, item in [*options().items(), *study_options().items()]:
        if (item.group in groups or name in extra) and name not in less:
            taken[name] = replace(item, default=defaults.get(name, item.default))
    return taken
