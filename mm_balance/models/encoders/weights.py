"""Pretrained weights for encoders: from a local file, or from where the encoder's library offers them. No pickle."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mm_balance.config.encoders import DOWNLOAD
from mm_balance.errors import UserError, one_line
from mm_balance.imports import require
from mm_balance.models.encoders.spec import EncoderSpec

FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in the folder of a model."""
TRANSFORMERS = "mm_balance.models.encoders.libraries:transformers_model"
NESTED = ("state_dict", "model", "model_state_dict", "model_ema")
"""Under which key saved training states have the weights."""
_DEPTH = 2


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a file of weights.

    Attributes:
        source: the file, or where it was downloaded from.
        loaded: number of tensors that were loaded.
        unused: names in the file that the encoder does not have, as those of a classifier.
        averaged: names whose input channels were averaged, because the encoder has another number of them.
        random: names that a model of ``transformers`` has, but not its file, as of a layer on top; they stay random.
    """

    source: str
    loaded: int
    unused: tuple[str, ...]
    averaged: tuple[str, ...]
    random: tuple[str, ...] = ()

    def text(self) -> str:
        """Say it in one sentence."""
        parts = [f"{self.loaded} tensors from {self.source}"]
        if self.unused:
            listed = ", ".join(self.unused[:4]) + (", ..." if len(self.unused) > 4 else "")
            parts.append(f"not used: {listed}")
        if self.random:
            parts.append(f"random: {', '.join(self.random)}")
        if self.averaged:
            parts.append(f"input channels averaged: {', '.join(self.averaged)}")
        return "; ".join(parts)


def load_weights(encoder: nn.Module, spec: EncoderSpec, source: str) -> LoadedWeights:
    """Load pretrained weights into an encoder.

    Every tensor of the encoder must be in the file, under its name or with another prefix (``backbone.``, ``module.``, ...). The first
    convolution may have another number of input channels: its weights are then averaged over the channels and scaled, so that a
    picture whose channels are equal gives what the pretrained network gives for it.

    Args:
        encoder: its weights are replaced.
        spec: what it was built from.
        source: a file of safetensors or of ``torch.save`` that ``weights_only`` can read, a folder with ``model.safetensors``, or
            ``download``: the default weights of torchvision, kept in torch's cache (``TORCH_HOME``), or of ``timm``, in that of
            Hugging Face.

    Raises:
        UserError: the file cannot be read, has not all tensors, or some of another shape; the weights cannot be downloaded.
    """
    what = f"encoder_weights={source} for encoder={spec.name}"
    random: list[str] = []
    if source == DOWNLOAD:
        saved, shown = _downloaded(spec, what)
    elif spec.builder == TRANSFORMERS and (Path(source) / "config.json").is_file():
        (saved, random), shown = _of_transformers(Path(source), what), source
    else:
        saved, shown = read_weights(Path(source).expanduser()), source
    own = {name: value for name, value in encoder.state_dict().items() if value.dim() or value.is_floating_point()}
    named, unused = _matched(own, saved)
    if missing := [name for name in own if name not in named]:
        raise UserError(
            f"{what}: {len(missing)} of the encoder's {len(own)} tensors are not in it, first {missing[0]}; the file has "
            f"{', '.join(list(saved)[:3]) or 'nothing'}, ...: give the weights of this encoder"
        )
    averaged: list[str] = []
    for name, value in named.items():
        if value.shape == own[name].shape:
            continue
        fits = value.dim() == own[name].dim() == 4 and value.shape[0] == own[name].shape[0]
        if not (fits and value.shape[2:] == own[name].shape[2:]) or averaged:
            raise UserError(
                f"{what}: {name} has shape {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the encoder; positions of a "
                "vision transformer depend on image_size"
            )
        channels, incoming = own[name].shape[1], value.shape[1]
        named[name] = value.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * (incoming / channels)
        averaged.append(name)
    encoder.load_state_dict({**encoder.state_dict(), **named})
    return LoadedWeights(shown, len(named), tuple(unused), tuple(averaged), tuple(random))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, or the ``model.safetensors`` or ``pytorch_model.bin`` of a folder. Raises UserError."""
    path = _file_of(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"encoder_weights={path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"encoder_weights={path}: not a file of weights ({one_line(str(error))}); give safetensors, or a state_dict saved by "
            "torch.save"
        ) from error
    for name in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    weights = {str(name): value for name, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"encoder_weights={path}: contains no state_dict, which maps names to tensors")
    return weights


def source_digest(spec: EncoderSpec | None, source: str) -> str:
    """Return the SHA-256 of the file that ``load_weights`` would read, in hex; of a download, what it is called.

    Raises:
        UserError: the file cannot be read.
    """
    if source == DOWNLOAD and spec is not None:
        return f"{spec.name} {torchvision.__version__ if '/' not in spec.name else spec.name.partition('/')[0]}"
    path = _file_of(Path(source).expanduser())
    try:
        status = path.stat()
        return _file_digest(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"encoder_weights={path}: cannot be read ({error.strerror or error})") from error


@cache
def _file_digest(path: Path, changed: int, size: int) -> str:
    """Return the SHA-256 of a file as it was last changed: a run asks for it several times."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_of(path: Path) -> Path:
    return next((path / name for name in FILES if (path / name).is_file()), path) if path.is_dir() else path


def _matched(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return own name -> saved tensor, with the pair of prefixes that matches most, and the saved names left over."""
    best: dict[str, str] = {}
    for prefix in _prefixes(own):
        for saved_prefix in _prefixes(saved):
            pairs = {
                name: other
                for name in own
                if name.startswith(prefix) and (other := saved_prefix + name.removeprefix(prefix)) in saved
            }
            if len(pairs) > len(best):
                best = pairs
    used = set(best.values())
    return {name: saved[other] for name, other in best.items()}, [
        name for name, value in saved.items() if name not in used and value.is_floating_point()
    ]


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    """Return what names may begin with, from nothing to ``_DEPTH`` parts."""
    parts = [name.split(".") for name in names]
    return list(
        dict.fromkeys(
            "".join(f"{item}." for item in name[:depth])
            for depth in range(_DEPTH + 1)
            for name in parts
            if len(name) > depth
        )
    )


def _of_transformers(folder: Path, what: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a model in a folder as the library reads them, which knows older names, and the names that it lacks."""
    library = require("transformers", what, extra="transformers")
    try:
        model, found = library.AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{what}: cannot be read ({one_line(str(error))})") from error
    return model.state_dict(), sorted(found["missing_keys"])


def _downloaded(spec: EncoderSpec, what: str) -> tuple[dict[str, Tensor], str]:
    model = spec.arguments.get("model", spec.name)
    try:
        if spec.name.startswith("timm/"):
            timm = require("timm", f"encoder={spec.name}", extra="timm")
            print(f"mm-balance: {what}: downloaded once, into the cache of Hugging Face (HF_HOME)")
            return timm.create_model(model, pretrained=True).state_dict(), f"timm's pretrained {model}"
        if model not in torchvision.models.list_models(torchvision.models):
            raise UserError(f"{what}: only torchvision and timm offer weights to download; give a local file")
        weights = torchvision.models.get_model_weights(model).DEFAULT
        print(
            f"mm-balance: {what}: {weights.url}, downloaded once, into {torch.hub.get_dir()}/checkpoints (TORCH_HOME)"
        )
        return dict(weights.get_state_dict(progress=True, check_hash=True)), weights.url
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{what}: the download failed ({one_line(str(error))}); give a local file instead, or try again"
        ) from error
