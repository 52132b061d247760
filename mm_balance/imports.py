"""Classes by import path, ``package.module:Class``: how people and saved descriptions name a class outside this package."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from mm_balance.errors import UserError

Base = TypeVar("Base")


def import_class(path: str, base: type[Base], what: str) -> type[Base]:
    """The class that ``path`` names.

    A module that exists but fails to import keeps its own exception: that is a defect of its code, and needs the traceback.

    Args:
        path: ``package.module:Class``.
        base: what the class must derive from.
        what: how messages call it, for example ``method=my_methods:Mine``.

    Raises:
        UserError: ``path`` has another form, there is no such module or class, or the class does not derive from ``base``.
    """
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *class_name.split("."))):
        raise UserError(f"{what}: {path!r} is no import path; write it like package.module:Class")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"{what}: there is no module {error.name}; start in the folder that has it, or install its package"
        ) from None
    found: Any = module
    for part in class_name.split("."):
        found = getattr(found, part, None)
    if found is None:
        offered = [name for name, value in vars(module).items() if _derives(value, base) and value is not base]
        listed = ", ".join(offered) or "none"
        raise UserError(f"{what}: {module_name} has no {class_name}; its {base.__name__} classes: {listed}")
    if not _derives(found, base):
        raise UserError(f"{what}: {class_name} is no {base.__name__}; derive the class from {import_path(base)}")
    return found


def import_path(cls: type) -> str:
    """The inverse of ``import_class``, for a class at the top of a module."""
    return f"{cls.__module__}:{cls.__qualname__}"


def outside_sources(cls: type, base: type) -> tuple[Path, ...]:
    """Where a class outside this package is written down: the folder of its top-level package, or the file of a module in none.

    Likewise for the classes that it inherits from on the way to ``base``. A class of an interactive session has no file, and so no
    source here.
    """
    sources: dict[Path, None] = {}
    for item in cls.__mro__:
        top, dot, _ = item.__module__.partition(".")
        file = getattr(sys.modules.get(item.__module__), "__file__", None)
        if issubclass(item, base) and top != "mm_balance" and file is not None:
            folders = [folder for folder in Path(file).parents if folder.name == top]
            in_package = dot or Path(file).name == "__init__.py"
            sources[folders[0] if in_package and folders else Path(file)] = None
    return tuple(sources)


def python_files(source: Path) -> list[Path]:
    """The files of a source that ``outside_sources`` names."""
    return sorted(source.rglob("*.py")) if source.is_dir() else [source]


def _derives(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)
