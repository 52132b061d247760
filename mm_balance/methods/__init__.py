"""One method = one file behind one small interface. Adding one: a file, a line in ``METHODS``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mm_balance.errors import UserError
from mm_balance.methods.base import Method
from mm_balance.methods.concat import Concat
from mm_balance.methods.concat_unimodal import ConcatUnimodal
from mm_balance.methods.gap_mixture import GapMixture

METHODS: dict[str, type[Method]] = {
    method.name: method  # the registry: one line per method
    for method in (
        Concat,
        ConcatUnimodal,
        GapMixture,
    )
}


def build_method(name: str, settings: Mapping[str, Any], modalities: Sequence[str], train_samples: int) -> Method:
    """The method called ``name``, its options taken from ``settings`` by field name.

    Raises:
        UserError: an unknown name, or an option that ``settings`` lacks.
    """
    if name not in METHODS:
        raise UserError(f"method={name} is not known; give one of {', '.join(METHODS)}")
    method = METHODS[name]
    wanted = [item.name for item in dataclasses.fields(method.Options)]
    missing = [item for item in wanted if item not in settings]
    if missing:
        raise UserError(f"method {name} needs the option(s) {', '.join(missing)}")
    return method(method.Options(**{item: settings[item] for item in wanted}), modalities, train_samples)


__all__ = ["METHODS", "Method", "build_method"]
