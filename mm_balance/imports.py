"""Import paths of classes, ``package.module:Class``: how users and saved models refer to classes outside this package."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from mm_balance.errors import UserError

Base = TypeVar("Base")


def import_class(path: str, base: type[Base], what: str) -> type[Base]:
    """Import the class that ``path`` names.

    If a module exists but fails to import, its own exception propagates: that is a bug in its code and needs the traceback.

    Args:
        path: ``package.module:Class``.
        base: required base class.
        what: name for error messages, for example ``method=my_methods:Mine``.

    Raises:
        UserError: malformed ``path``, no such module or class, or the class does not derive from ``base``.
    """
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *class_name.split("."))):
        raise UserError(f"{what}: {path!r} is not an import path; write it as package.module:Class")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"{what}: there is no module {error.name}; start in the folder that has it, or install its package"
        ) from None
    cls: Any = module
    for part in class_name.split("."):
        cls = getattr(cls, part, None)
    if cls is None:
        candidates = [name for name, value in vars(module).items() if _derives(value, base) and value is not base]
        listed = ", ".join(candidates) or "none"
        raise UserError(f"{what}: {module_name} has no {class_name}; its {base.__name__} classes: {listed}")
    if not _derives(cls, base):
        raise UserError(f"{what}: {class_name} is not a {base.__name__}; derive the class from {import_path(base)}")
    return cls


def import_path(cls: type) -> str:
    """Return the import path of a top-level class: the inverse of ``import_class``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def outside_sources(cls: type, base: type) -> tuple[Path, ...]:
    """Return the sources of a class outside this package: the folder of its top-level package, or the file of a single module.

    The sources of the classes between it and ``base`` are included. A class defined interactively has no file and no source.
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
    """Return the Python files of a source returned by ``outside_sources``."""
    return sorted(source.rglob("*.py")) if source.is_dir() else [source]


def _derives(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)
