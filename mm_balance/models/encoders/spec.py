"""Which encoder a modality has: chosen by name, built for an input spec, and described so that a saved model builds it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mm_balance.config.encoders import BUILT_IN, BY_KIND, PLUGINS, check_encoders
from mm_balance.errors import UserError
from mm_balance.imports import import_class, import_function
from mm_balance.input_kinds import INPUT_KINDS
from mm_balance.models.encoders.base import Encoder
from mm_balance.types import InputSpec

_LIBRARIES = "mm_balance.models.encoders.libraries"
DRY_BATCH = 2


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder to be built for the input spec of its modality.

    Attributes:
        name: what the user calls it.
        builder: import path of a function of an ``InputSpec`` that returns a module: normalized samples, ``(batch, *spec.shape)`` ->
            ``(batch, features)``.
        arguments: keyword arguments of the function: primitives, lists and mappings of them.
        package: the installed package that it comes from; empty = this one, or none.
        folder: where its pretrained weights are, of a model of ``transformers``; empty = nowhere. Not part of the description.
    """

    name: str
    builder: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    folder: str = ""

    def build(self, spec: InputSpec) -> tuple[nn.Module, int]:
        """Build the encoder with new weights; return it and the number of its features.

        Raises:
            UserError: it cannot be imported, does not take inputs of this kind, or does not give one vector per sample.
        """
        what = f"encoder={self.name}"
        builder = import_function(self.builder, f"{what} (of the package {self.package})" if self.package else what)
        kinds = getattr(builder, "kinds", None)  # of a class; a function is tried
        if isinstance(kinds, tuple) and spec.kind not in kinds:
            raise UserError(f"{what} takes {_listed(kinds)}, not {_listed([spec.kind])}")
        module = builder(spec, **self.arguments)
        if not isinstance(module, nn.Module):
            raise UserError(f"{what}: it returned a {type(module).__name__}, not a torch.nn.Module")
        if isinstance(module, Encoder) and spec.kind not in module.kinds:
            raise UserError(f"{what} takes {_listed(module.kinds)}, not {_listed([spec.kind])}")
        if isinstance(module, Encoder) and "features" in vars(module):
            return module, module.features
        return module, _count_features(module, spec, what)

    def check(self) -> None:
        """Raise UserError if it cannot be imported, or its library is missing or has no such model; nothing is built."""
        library, slash, model = self.name.partition("/")
        if slash and library in ("torchvision", "timm"):
            import_function(f"{_LIBRARIES}:check_model", self.name)(library, model)
        else:
            import_function(self.builder, f"encoder={self.name}")

    def describe(self) -> dict[str, Any]:
        """Return a JSON-ready description for ``from_description``.

        Raises:
            UserError: the function is defined in a script or in another function, and cannot be imported.
        """
        if self.builder.startswith("__main__:") or "<locals>" in self.builder:
            raise UserError(
                f"encoder={self.name}: {self.builder} cannot be imported when a saved model is loaded; move it to a module of its own "
                "and give it by import path: encoder=package.module:build"
            )
        package = {"package": self.package} if self.package else {}
        return {"name": self.name, "builder": self.builder, "arguments": dict(self.arguments), **package}

    @classmethod
    def from_description(cls, description: str | Mapping[str, Any]) -> EncoderSpec:
        """Invert ``describe``; also accepts the older form, a name of this package."""
        if isinstance(description, str):
            return cls(description, BUILT_IN[description])
        return cls(**description)


def choose_encoders(text: str, specs: Mapping[str, InputSpec]) -> dict[str, EncoderSpec]:
    """Return the encoder of every modality.

    An encoder of this package or of a library that is chosen for all modalities is not used for those of another kind: vectors and
    sequences then have ``mlp`` and ``transformer`` (``INPUT_KINDS``).

    Args:
        text: value of the parameter ``encoder``.
        specs: modality -> input spec.

    Raises:
        UserError: a modality without encoder or with two, an unknown name, or one for none of the modalities.
    """
    names = check_encoders(text, tuple(specs))
    usual = {modality: INPUT_KINDS[spec.kind].encoder for modality, spec in specs.items()}
    names = {modality: usual[modality] if name == BY_KIND else name for modality, name in names.items()}
    if len(set(names.values())) == 1 and ":" not in text and text != BY_KIND:
        name = next(iter(names.values()))
        fitting = [modality for modality, spec in specs.items() if _takes(name, spec.kind)]
        if not fitting:
            kinds = _listed(sorted({spec.kind for spec in specs.values()}))
            raise UserError(f"encoder={name} is for none of the modalities, which are {kinds}; {_suggestion(specs)}")
        names = {modality: name if modality in fitting else usual[modality] for modality in specs}
    return {modality: find_encoder(name) for modality, name in names.items()}


def _takes(name: str, kind: str) -> bool:
    """Tell whether an encoder may be meant for a kind of input; those of packages from outside are tried with any."""
    path = BUILT_IN.get(name, f"{_LIBRARIES}:FromLibrary" if "/" in name else None)
    return path is None or kind in import_class(path, Encoder, f"encoder={name}").kinds


def find_encoder(name: str) -> EncoderSpec:
    """Return the encoder of a name. Raises UserError if there is none, or its folder cannot be read."""
    library, slash, model = name.partition("/")
    if slash and ":" not in library:
        if library == "transformers":
            return _of_folder(name, Path(model).expanduser())
        return EncoderSpec(name, f"{_LIBRARIES}:{library}_model", {"model": model})
    if ":" in name:
        return EncoderSpec(name, name)
    outside = PLUGINS.outside(name)
    if outside is None:
        return EncoderSpec(name, BUILT_IN[name])
    return EncoderSpec(name, outside.path, package=outside.package)


def _of_folder(name: str, folder: Path) -> EncoderSpec:
    """Return the spec of a model of ``transformers`` in a local folder; its configuration travels with the spec."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"encoder={name}: {folder / 'config.json'} cannot be read ({error.strerror or error}); give the local folder of a model"
        ) from error
    except ValueError as error:
        raise UserError(f"encoder={name}: {folder / 'config.json'} is not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f"encoder={name}: {folder / 'config.json'} names no model_type")
    weights = any((folder / file).is_file() for file in ("model.safetensors", "pytorch_model.bin"))
    arguments = {"config": {key: value for key, value in config.items() if not key.startswith("_")}}
    return EncoderSpec(name, f"{_LIBRARIES}:transformers_model", arguments, folder=str(folder) if weights else "")


@torch.no_grad()
def _count_features(module: nn.Module, spec: InputSpec, what: str) -> int:
    """Return the features that a module gives for zeros, in evaluation; the random state stays as it is."""
    was_training = module.training
    samples = torch.zeros(DRY_BATCH, *spec.shape)
    try:
        with torch.random.fork_rng(devices=[]):
            output = module.eval()(samples)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{what}: it cannot encode {_listed([spec.kind])} of shape {tuple(samples.shape)} (batch, ...): {first}"
        ) from error
    module.train(was_training)
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != DRY_BATCH:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"{what}: of {DRY_BATCH} samples it gives {got}, not a tensor of shape ({DRY_BATCH}, features)")
    stated = getattr(module, "features", output.shape[1])
    if isinstance(stated, int) and stated != output.shape[1]:
        raise UserError(f"{what}: it says features={stated}, but gives {output.shape[1]} per sample")
    return output.shape[1]


def _suggestion(specs: Mapping[str, InputSpec]) -> str:
    chosen = ",".join(f"{modality}:{INPUT_KINDS[spec.kind].encoder}" for modality, spec in specs.items())
    return f"for example encoder={chosen}"


def _listed(kinds: tuple[str, ...] | list[str]) -> str:
    return " or ".join(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds)
