"""Encoders from libraries: any classifier of torchvision, any model of ``timm``, vision and spectrogram models of ``transformers``.

Here they are only built; ``mm_balance.models.encoders.weights`` loads pretrained weights. ``timm`` and ``transformers`` are optional.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torchvision
from torch import Tensor, nn

from mm_balance.errors import UserError, did_you_mean
from mm_balance.imports import require
from mm_balance.models.encoders.base import PICTURES, Encoder, average_over_frames
from mm_balance.types import InputSpec


class FromLibrary(Encoder):
    """A network for pictures from a library; of a video, the mean over its frames.

    Args:
        backbone: ``(pictures, channels, height, width)`` -> ``(pictures, features)``.
    """

    kinds = PICTURES

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, [frames,] channels, height, width)`` -> ``(batch, features)``."""
        return average_over_frames(self.backbone, samples)


def check_model(library: str, model: str) -> None:
    """Raise UserError if a library is not installed or has no such model; nothing is built."""
    if library == "torchvision":
        known = torchvision.models.list_models(torchvision.models)
    else:
        known = require("timm", f"encoder=timm/{model}", extra="timm").list_models()
    if model not in known:
        raise UserError(f"{library} has no model {model!r}{did_you_mean(model, known)}")


def torchvision_model(spec: InputSpec, *, model: str) -> Encoder:
    """Build a classifier of torchvision without its last linear layer, for any number of channels, with random weights.

    Args:
        spec: input spec.
        model: one of ``torchvision.models.list_models(torchvision.models)``.

    Raises:
        UserError: no such model, one without a linear classifier, or a transformer for pictures that are not square.
    """
    check_model("torchvision", model)
    options: dict[str, Any] = {"weights": None}
    if model in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    if model.startswith("vit_"):
        height, width = spec.shape[-2:]
        if height != width:
            raise UserError(f"{model} takes square pictures, not {height} x {width}")
        options["image_size"] = height
    network = torchvision.models.get_model(model, **options)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"{model} ends in no linear layer that could be taken off; give another model")
    network.set_submodule(linear[-1], nn.Identity())
    _take_channels(network, spec.shape[-3])
    return FromLibrary(network)


def _take_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for ``channels`` channels, unless it has them."""
    name, first = next(item for item in network.named_modules() if isinstance(item[1], nn.Conv2d))
    if first.in_channels != channels:
        copied = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        settings = {setting: getattr(first, setting) for setting in copied}
        network.set_submodule(name, nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **settings))


def timm_model(spec: InputSpec, *, model: str) -> Encoder:
    """Build a model of ``timm`` without classifier, for the channels and, where the model depends on it, the size of the pictures.

    Raises:
        UserError: ``timm`` is not installed, or has no such model.
    """
    check_model("timm", model)
    timm = import_module("timm")
    options = {"pretrained": False, "in_chans": spec.shape[-3], "num_classes": 0}
    takes_size = "img_size" in inspect.signature(timm.model_entrypoint(model)).parameters
    try:
        network = timm.create_model(model, img_size=tuple(spec.shape[-2:]), **options)
    except TypeError:
        # Convolutional networks take pictures of any size and have no such argument.
        if takes_size:
            raise
        network = timm.create_model(model, **options)
    return FromLibrary(network)


class PretrainedTransformer(Encoder):
    """A model of ``transformers``: of its output the pooled vector, or the mean of its last states where it pools nothing.

    Args:
        network: the model.
        name: its main input, ``pixel_values``, or ``input_values`` of models that take a spectrogram as ``(batch, time, bins)``.
    """

    kinds = PICTURES

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.input_name = name

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, [frames,] channels, height, width)`` -> ``(batch, features)``."""
        return average_over_frames(self._features, samples)

    def _features(self, pictures: Tensor) -> Tensor:
        if self.input_name == "input_values":
            pictures = pictures.squeeze(1).transpose(1, 2)
        output = self.network(**{self.input_name: pictures})
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        states: Tensor = output.last_hidden_state if pooled is None else pooled
        if states.dim() == 4:  # convolutional: maps
            return states.mean(dim=(2, 3))
        return states.mean(dim=1) if states.dim() == 3 else states


def transformers_model(spec: InputSpec, *, config: Mapping[str, Any]) -> Encoder:
    """Build a model of ``transformers`` with random weights from its configuration, the content of its ``config.json``.

    Raises:
        UserError: ``transformers`` is not installed, or the model takes no pictures or spectrograms.
    """
    kind = str(config.get("model_type"))
    library = require("transformers", f"encoder=transformers/... ({kind})", extra="transformers")
    try:
        settings = library.AutoConfig.for_model(**config)
        network = library.AutoModel.from_config(settings)
    except (KeyError, ValueError) as error:
        raise UserError(f"transformers cannot build {kind!r} ({error})") from error
    if network.main_input_name not in ("pixel_values", "input_values"):
        raise UserError(f"{kind} takes {network.main_input_name}; give a model of pictures or of spectrograms")
    if network.main_input_name == "input_values" and spec.shape[-3] != 1:
        raise UserError(f"{kind} takes spectrograms, of one channel, not {spec.shape[-3]}")
    return PretrainedTransformer(network, network.main_input_name)
