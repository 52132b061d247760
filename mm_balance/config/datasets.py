"""Data sets by name: those of this package, manifests, and functions that return one. Nothing here loads PyTorch by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from mm_balance.errors import UserError, did_you_mean
from mm_balance.imports import import_function
from mm_balance.plugins import Plugins

PRESETS = resources.files("mm_balance") / "presets"
QUICK, EMBEDDINGS, MANIFEST = "quick", "embeddings", "manifest"
NAMED_PRESETS = (QUICK, EMBEDDINGS)
"""Presets that are given by name, over that of the data set."""
OWN = "package.module:build"
AT_HAND = "python"
"""In place of a module in the name of data that a program gave to ``mm_balance.run``: no command can read them."""
SHOWN = 60
"""Characters of a name in a message."""


def built_in() -> list[str]:
    """Return the data sets of this package: those that have a preset of their own."""
    stems = (file.name.removesuffix(".yaml") for file in PRESETS.iterdir() if file.name.endswith(".yaml"))
    return sorted(name for name in stems if name not in (*NAMED_PRESETS, MANIFEST))


PLUGINS = Plugins("dataset", "mm_balance.datasets", {name: f"the data set {name}" for name in built_in()}, OWN)
"""Data sets of installed packages: name = import path of a function, see ``find_builder``."""


def find_builder(dataset: str) -> Callable[[], Any]:
    """Return the function that makes a data set.

    Such a function takes nothing and returns a ``MultimodalData``. Its attribute ``settings``, if it has one, is its preset:
    parameter -> value, in place of those of ``manifest.yaml``.

    Args:
        dataset: value of the parameter ``dataset``: ``package.module:build``, or a name that an installed package offers.

    Raises:
        UserError: no such data set, one that no function makes, a name that two packages have, or no such module or function.
    """
    if is_at_hand(dataset):
        raise UserError(
            f"dataset={dataset}: these data were given by a Python program, so only that can give them again (mm_balance.run); let a "
            f"function return them, and name it: dataset={OWN}"
        )
    path = builder_path(dataset)
    if path is None:
        raise UserError(f"dataset={dataset} is not made by a function")
    return import_function(path, f"dataset={dataset}")


def builder_path(dataset: str) -> str | None:
    """Return the import path of the function that makes a data set; None = there is none. Nothing is imported.

    Raises:
        UserError: as ``find_builder``, for names.
    """
    if dataset.endswith(".csv"):
        return None
    if ":" in dataset:
        return dataset
    if dataset not in PLUGINS.built_in and not PLUGINS.offered(dataset):
        shown = dataset if len(dataset) <= SHOWN else f"{dataset[:SHOWN]}..."
        known = PLUGINS.names()
        raise UserError(
            f"dataset={shown} is not known; give {', '.join(known)}, the path of a manifest.csv, or your own function as {OWN}"
            f"{did_you_mean(shown, known)}"
        )
    outside = PLUGINS.outside(dataset)
    return None if outside is None else outside.path


def builder_settings(dataset: str) -> Mapping[str, Any]:
    """Return the preset that the function of a data set brings along; empty = none, or there is no such function.

    Raises:
        UserError: as ``find_builder``; or its ``settings`` are no mapping.
    """
    if is_at_hand(dataset) or builder_path(dataset) is None:
        return {}
    settings = getattr(find_builder(dataset), "settings", {})
    if not isinstance(settings, Mapping):
        raise UserError(f"dataset={dataset}: its settings are no mapping of parameter to value")
    return settings


def is_own(dataset: str) -> bool:
    """Tell whether a value of ``dataset`` stands for the user's own data, rather than a set that this package knows.

    Raises:
        UserError: as ``builder_path``.
    """
    return dataset.endswith(".csv") or builder_path(dataset) is not None


def is_at_hand(dataset: str) -> bool:
    """Tell whether a value of ``dataset`` stands for data that a program gave to ``mm_balance.run``."""
    return dataset.startswith(f"{AT_HAND}:")
