"""Import paths, ``package.module:Name``: how users and saved models refer to classes and functions outside this package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mm_balance.errors import UserError

Base = TypeVar("Base")


def import_class(path: str, base: type[Base], what: str) -> type[Base]:
    """Import the class that ``path`` names.

    Args:
        path: ``package.module:Class``.
        base: required base class.
        what: name for error messages, for example ``method=my_methods:Mine``.

    Raises:
        UserError: malformed ``path``, no such module or class, or the class does not derive from ``base``.
    """
    module, name, cls = _look_up(path, what, "Class")
    if cls is None:
        candidates = [name for name, value in vars(module).items() if _derives(value, base) and value is not base]
        listed = ", ".join(candidates) or "none"
        raise UserError(f"{what}: {module.__name__} has no {name}; its {base.__name__} classes: {listed}")
    if not _derives(cls, base):
        raise UserError(f"{what}: {name} is not a {base.__name__}; derive the class from {import_path(base)}")
    return cls


def import_function(path: str, what: str) -> Callable[..., Any]:
    """Import the function, or anything else that can be called, that ``path`` names.

    Args:
        path: ``package.module:function``.
        what: name for error messages, for example ``encoder=my_encoders:build``.

    Raises:
        UserError: malformed ``path``, no such module or function, or it cannot be called.
    """
    module, name, function = _look_up(path, what, "function")
    if function is None:
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        ]
        raise UserError(f"{what}: {module.__name__} has no {name}; it has: {', '.join(own) or 'no functions'}")
    if not callable(function):
        raise UserError(f"{what}: {name} is not a function, but a {type(function).__name__}")
    return function


def _look_up(path: str, what: str, kind: str) -> tuple[ModuleType, str, Any]:
    """Return the module, the name in it, and what has that name; None = nothing.

    If a module exists but fails to import, its own exception propagates: that is a bug in its code and needs the traceback.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise UserError(f"{what}: {path!r} is not an import path; write it as package.module:{kind}")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"{what}: there is no module {error.name}; set PYTHONPATH to the folder that has it (the current folder is {Path.cwd()}), "
            "or install its package"
        ) from None
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return module, name, found


def require(module: str, what: str, *, extra: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: its name.
        what: what needs it, for the message.
        extra: the extra of this package that installs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"{what} needs the package {module}: pip install 'mm-balance[{extra}]'") from None


def import_path(cls: type) -> str:
    """Return the import path of a top-level class: the inverse of ``import_class``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def outside_sources(cls: type, base: type) -> tuple[Path, ...]:
    """Return the sources of a class outside this package: the folder of its top-level package, or the file of a single module.

    The sources of the classes between it and ``base`` are included. A class defined interactively has no file and no source.
    """
    return sources_of_modules(item.__module__ for item in cls.__mro__ if issubclass(item, base))


def sources_of_modules(modules: Iterable[str]) -> tuple[Path, ...]:
    """Return the sources of imported modules outside this package, as ``outside_sources``."""
    sources: dict[Path, None] = {}
    for module in modules:
        top, dot, _ = module.partition(".")
        file = getattr(sys.modules.get(module), "__file__", None)
        if top != "mm_balance" and file is not None:
            folders = [folder for folder in Path(file).parents if folder.name == top]
            in_package = dot or Path(file).name == "__init__.py"
            sources[folders[0] if in_package and folders else Path(file)] = None
    return tuple(sources)


def python_files(source: Path) -> list[Path]:
    """Return the Python files of a source returned by ``outside_sources``."""
    return sorted(source.rglob("*.py")) if source.is_dir() else [source]


def _derives(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)
