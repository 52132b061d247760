"""Balancing methods, one file each, behind a small interface. To add one: a file and a line in ``registry.BUILT_IN``.

Importing this package loads neither PyTorch nor any method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mm_balance.methods.options import option_lines, parse_options
from mm_balance.methods.registry import (
    METHODS,
    build_method,
    check_method_name,
    check_takes_labels,
    find_method,
    method_names,
    plugins,
)

if TYPE_CHECKING:
    from mm_balance.methods.base import Inspector, Method

__all__ = [
    "METHODS",
    "Inspector",
    "Method",
    "build_method",
    "check_method_name",
    "check_takes_labels",
    "find_method",
    "method_names",
    "option_lines",
    "parse_options",
    "plugins",
]


def __getattr__(name: str) -> Any:
    if name not in ("Inspector", "Method"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mm_balance.methods import base  # loads PyTorch

    return getattr(base, name)
