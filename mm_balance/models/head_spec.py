"""Specification of a network's head: class and constructor arguments, in code and in saved descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mm_balance.errors import UserError
from mm_balance.imports import import_class, import_path
from mm_balance.models.fusion import FUSIONS, Fusion, find_fusion

_HEADS = "mm_balance.models.heads"
_METHODS = "mm_balance.methods"
LEGACY_HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{name}+own": (f"{_HEADS}:OwnHeads", {"joint": name}) for name in FUSIONS},
    "late_logits": (f"{_HEADS}:LateFusion", {"mean_of": "logits"}),
    "late_probabilities": (f"{_HEADS}:LateFusion", {"mean_of": "probabilities"}),
    "only:audio": (f"{_METHODS}.unimodal:OnlyHead", {"modality": "audio"}),
    "only:visual": (f"{_METHODS}.unimodal:OnlyHead", {"modality": "visual"}),
    "cosine": (f"{_METHODS}.mmcosine:CosineHead", {"scale": 10.0}),
    "shared_entropy": (f"{_METHODS}.mla:SharedHead", {"gate": "entropy"}),
    "shared_fixed": (f"{_METHODS}.mla:SharedHead", {"gate": "fixed"}),
    "shared_batch": (f"{_METHODS}.mla:SharedHead", {"gate": "batch"}),
    "boosted": (f"{_METHODS}.reconboost:BoostedHead", {}),
}
"""Names of heads in descriptions of older logged models, from before import paths. Buffer values come from the weights."""


@dataclass(frozen=True)
class HeadSpec:
    """A head to be built once the network knows its feature widths.

    Attributes:
        head: class at module level; descriptions refer to it by import path.
        arguments: keyword arguments of its constructor besides ``widths`` and ``classes``: primitives, lists and mappings of them.
    """

    head: type[Fusion]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_fusion(cls, name: str) -> HeadSpec:
        """Return the spec of the fusion ``name`` (key of ``FUSIONS``). Raises UserError if it is unknown."""
        return cls(find_fusion(name))

    def build(self, widths: Mapping[str, int], classes: int) -> Fusion:
        """Build the head.

        Args:
            widths: modality -> number of features.
            classes: number of classes.

        Raises:
            UserError: unsupported modalities.
        """
        return self.head(widths, classes, **self.arguments)

    def describe(self) -> dict[str, Any]:
        """Return a JSON-ready description for ``from_description``.

        Raises:
            UserError: the class is defined in a script or a function and cannot be imported.
        """
        path = import_path(self.head)
        if path.startswith("__main__:") or "<locals>" in path:
            raise UserError(
                f"the head {path} cannot be imported when a saved model is loaded: move it to module level "
                "and give its method by import path: method=package.module:Class"
            )
        return {"class": path, "arguments": dict(self.arguments)}

    @classmethod
    def from_description(cls, description: str | Mapping[str, Any]) -> HeadSpec:
        """Invert ``describe``; also accepts the older form, a fusion's name or a key of ``LEGACY_HEADS``.

        Raises:
            UserError: unknown name or class, or a class that is not a head.
        """
        if isinstance(description, str):
            if description not in LEGACY_HEADS:
                return cls.of_fusion(description)
            path, arguments = LEGACY_HEADS[description]
        else:
            path, arguments = description["class"], description["arguments"]
        return cls(import_class(path, Fusion, f"the model's head {path}"), arguments)
