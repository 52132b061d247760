"""Which head a network has: a class and its arguments, in code and in saved descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mm_balance.errors import UserError
from mm_balance.imports import import_class, import_path
from mm_balance.models.fusion import FUSIONS, Fusion, find_fusion

_HEADS = "mm_balance.models.heads"
_METHODS = "mm_balance.methods"
WORDS: dict[str, tuple[str, dict[str, Any]]] = {
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
"""What descriptions of models that were logged before heads had import paths call them. Their buffers are among the weights."""


@dataclass(frozen=True)
class HeadSpec:
    """A head that is still to be built, for features whose widths only the network knows.

    Attributes:
        head: its class, at the top of a module: a description names it by import path.
        arguments: what its constructor takes beside ``widths`` and ``classes``, by name: primitives, and lists and mappings of them.
    """

    head: type[Fusion]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_fusion(cls, name: str) -> HeadSpec:
        """Of the fusion that is called ``name`` (key of ``FUSIONS``). Raises UserError for an unknown one."""
        return cls(find_fusion(name))

    def build(self, widths: Mapping[str, int], classes: int) -> Fusion:
        """A new head.

        Args:
            widths: modality -> number of features.
            classes: number of classes.

        Raises:
            UserError: modalities that it cannot join.
        """
        return self.head(widths, classes, **self.arguments)

    def describe(self) -> dict[str, Any]:
        """What ``from_description`` reads, as JSON-ready primitives.

        Raises:
            UserError: the class is in a script or a function, where nobody can import it from.
        """
        path = import_path(self.head)
        if path.startswith("__main__:") or "<locals>" in path:
            raise UserError(
                f"the head {path} cannot be imported where a saved model is loaded: move it to the top of a module, "
                "and name its method by import path: method=package.module:Class"
            )
        return {"class": path, "arguments": dict(self.arguments)}

    @classmethod
    def from_description(cls, description: str | Mapping[str, Any]) -> HeadSpec:
        """The inverse of ``describe``; also reads a word, as descriptions had before: a fusion's name, or a key of ``WORDS``.

        Raises:
            UserError: an unknown word; no such class, or one that is no head.
        """
        if isinstance(description, str):
            if description not in WORDS:
                return cls.of_fusion(description)
            path, arguments = WORDS[description]
        else:
            path, arguments = description["class"], description["arguments"]
        return cls(import_class(path, Fusion, f"the model's head {path}"), arguments)
