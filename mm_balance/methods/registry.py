"""Registry of methods: built-in ones, installed plug-ins, and any class by import path. Does not import PyTorch.

A method's module is imported on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from mm_balance.errors import UserError
from mm_balance.imports import import_class, import_path
from mm_balance.methods.options import complete
from mm_balance.plugins import Plugins

if TYPE_CHECKING:
    from mm_balance.methods.base import Method

BUILT_IN = {
    "concat": "mm_balance.methods.concat:Concat",
    "concat_unimodal": "mm_balance.methods.concat_unimodal:ConcatUnimodal",
    "one_modality": "mm_balance.methods.unimodal:OneModality",
    "audio_only": "mm_balance.methods.unimodal:AudioOnly",
    "visual_only": "mm_balance.methods.unimodal:VisualOnly",
    "ensemble": "mm_balance.methods.unimodal:Ensemble",
    "g_blending": "mm_balance.methods.g_blending:GBlending",
    "ogm": "mm_balance.methods.ogm:Ogm",
    "ogm_ge": "mm_balance.methods.ogm:OgmGe",
    "greedy": "mm_balance.methods.greedy:Greedy",
    "pmr": "mm_balance.methods.pmr:Pmr",
    "agm": "mm_balance.methods.agm:Agm",
    "mla": "mm_balance.methods.mla:Mla",
    "diagnose_relearn": "mm_balance.methods.diagnose_relearn:DiagnoseRelearn",
    "opm": "mm_balance.methods.opm:Opm",
    "opm_ogm": "mm_balance.methods.opm:OpmOgm",
    "gap_mixture": "mm_balance.methods.gap_mixture:GapMixture",
    "purified": "mm_balance.methods.purified:Purified",
    "posterior_discount": "mm_balance.methods.posterior_discount:PosteriorDiscount",
    "loss_mixture": "mm_balance.methods.loss_mixture:LossMixture",
    "mmcosine": "mm_balance.methods.mmcosine:MMCosine",
    "mmpareto": "mm_balance.methods.mmpareto:MMPareto",
    "umt": "mm_balance.methods.umt:Umt",
    "sample_valuation": "mm_balance.methods.sample_valuation:SampleValuation",
    "focal": "mm_balance.methods.focal:Focal",
    "gce": "mm_balance.methods.gce:Gce",
    "lfm": "mm_balance.methods.lfm:Lfm",
    "reconboost": "mm_balance.methods.reconboost:ReconBoost",
    "cml": "mm_balance.methods.cml:Cml",
    "amco": "mm_balance.methods.amco:Amco",
    "mbsd": "mm_balance.methods.mbsd:Mbsd",
}
"""The methods of this package: one line each, name and import path."""

PLUGINS = Plugins("method", "mm_balance.methods", BUILT_IN, "package.module:Class")
"""Methods of installed packages."""


class MethodRegistry(MutableMapping[str, "type[Method]"]):
    """Name -> method class; a method registered by import path is imported on first access.

    Args:
        paths: name -> import path.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._methods: dict[str, str | type[Method]] = dict(paths)

    def __getitem__(self, name: str) -> type[Method]:
        method = self._methods[name]
        if isinstance(method, str):
            method = self._methods[name] = _import_method(method, f"method={name}")
        return method

    def __setitem__(self, name: str, method: type[Method]) -> None:
        self._methods[name] = method

    def __delitem__(self, name: str) -> None:
        del self._methods[name]

    def __contains__(self, name: object) -> bool:
        return name in self._methods  # Mapping.__contains__ would import the method

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)


METHODS = MethodRegistry(BUILT_IN)
"""Name -> class of all built-in methods and of those a program registers: ``METHODS["mine"] = Mine``."""


def find_method(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: key of ``METHODS``, name of an installed plug-in, or ``package.module:Class``. Under ``python -m``, modules in the
            current folder can be imported.

    Raises:
        UserError: no such method, an ambiguous name, or a class that is not a method or lacks a unique name.
    """
    if ":" in name:
        return _import_outside(name, f"method={name}")
    outside = PLUGINS.outside(name, also=list(METHODS))
    return METHODS[name] if outside is None else _import_outside(outside.path, f"method={name}")


def check_method_name(name: str) -> None:
    """Raise UserError if no method has that name; nothing is imported."""
    if ":" not in name and name not in method_names():
        raise PLUGINS.unknown(name, also=list(METHODS))


def check_takes_labels(method: type[Method], *, several_classes: bool) -> None:
    """Raise UserError if samples have several true classes, to which the method's equations do not carry over."""
    if several_classes and not method.several_classes:
        fitting = ", ".join(known for known in METHODS if METHODS[known].several_classes)
        own = (
            "" if method.name in BUILT_IN else "; if its equations carry over, set several_classes = True on the class"
        )
        raise UserError(
            f"method={method.name} is for one class per sample, these data have several; use one of {fitting}{own}"
        )


def plugins(name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of methods in installed packages; with ``name``, only those of that name. Nothing is imported."""
    return PLUGINS.offered(name)


def method_names() -> list[str]:
    """Return the names of all methods: ``METHODS``, then plug-ins."""
    return PLUGINS.names(also=list(METHODS))


def build_method(name: str, settings: Mapping[str, Any], modalities: Sequence[str], train_samples: int) -> Method:
    """Build a method; ``settings`` maps option names to values, missing options take their defaults.

    Raises:
        UserError: see ``find_method``; or too many modalities for the method.
    """
    method = find_method(name)
    return method(complete(method.Options, settings), modalities, train_samples)


def _import_method(path: str, what: str) -> type[Method]:
    from mm_balance.methods.base import Method  # loads PyTorch

    return import_class(path, Method, what)


def _import_outside(path: str, what: str) -> type[Method]:
    """Import a method that is not in ``METHODS``; runs are looked up by its name, so the name must be unique."""
    method = _import_method(path, what)
    for attribute in ("name", "title"):
        if not isinstance(getattr(method, attribute, None), str):
            raise UserError(f"{what}: {method.__name__} has no {attribute}; give the class one")
    if method.name in BUILT_IN and BUILT_IN[method.name] != import_path(method):
        raise UserError(
            f"{what}: {method.__name__}.name is {method.name!r}, a method of MM-Balance; give it another name"
        )
    return method
