"""Encoders: one modality's samples -> features. From scratch, no pretrained weights.

Initialization, as in the official codes of the field (OGM-GE, PMR, MLA): convolutions Kaiming normal by fan-out, batch
normalization 1 / 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, resnet18

from mm_balance.errors import UserError
from mm_balance.types import InputSpec

NARROW_WIDTHS = (8, 16, 32, 64)


class Encoder(nn.Module):
    """Base of all encoders.

    Attributes:
        width: features per sample.
        stage_widths: channels of the maps after each stage but the last part.
    """

    width: int
    stage_widths: tuple[int, ...]

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """The encoder as one stage after the other; the last part turns maps into features. Together they are ``forward``."""
        raise NotImplementedError


class ResNet18(Encoder):
    """torchvision's ResNet-18 without its classifier; the 7x7 stem takes the modality's number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = 512
        self.backbone = resnet18(weights=None)
        self.backbone.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.backbone.fc = nn.Identity()
        self.stage_widths = (64, 128, 256, 512)
        initialize(self.backbone)

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """See ``Encoder.parts``: four stages, the stem belongs to the first."""
        net = self.backbone
        first = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        return [first, net.layer2, net.layer3, net.layer4, nn.Sequential(net.avgpool, nn.Flatten())]

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` or ``(batch, frames, channels, height, width)`` -> ``(batch, 512)``."""
        return average_over_frames(self.backbone, samples)


class ResNetNarrow(Encoder):
    """The layout of ResNet-18 at an eighth of its width, for inputs of about 32-64 pixels and for CPUs.

    The stem is a 3x3 convolution with stride 2 and no pooling follows it: the usual 7x7 stem with pooling leaves too
    little of a small image (it costs the digits' visual branch 10 points).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = NARROW_WIDTHS[-1]
        stem = NARROW_WIDTHS[0]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, stem, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        ]
        incoming = stem
        for outgoing in NARROW_WIDTHS:
            layers += [_first_block(incoming, outgoing), BasicBlock(outgoing, outgoing)]
            incoming = outgoing
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.stage_widths = NARROW_WIDTHS
        initialize(self.backbone)

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """See ``Encoder.parts``: four stages of two blocks, the stem belongs to the first."""
        return [self.backbone[:5], self.backbone[5:7], self.backbone[7:9], self.backbone[9:11], self.backbone[11:]]

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` or ``(batch, frames, channels, height, width)`` -> ``(batch, 64)``."""
        return average_over_frames(self.backbone, samples)


def _first_block(incoming: int, outgoing: int) -> BasicBlock:
    """First block of a stage: where the width grows, it halves the resolution and projects its shortcut."""
    if incoming == outgoing:
        return BasicBlock(incoming, outgoing)
    shortcut = nn.Sequential(EverySecondPixel(incoming, outgoing), nn.BatchNorm2d(outgoing))
    return BasicBlock(incoming, outgoing, stride=2, downsample=shortcut)


class EverySecondPixel(nn.Conv2d):
    """A 1x1 convolution with stride 2, as every second pixel and then stride 1.

    The same numbers; but oneDNN 3.13 (torch 2.15) writes past its memory in the backward pass of the strided one where fewer
    than 16 channels come in with channels last, and some batch sizes crash (uxlfoundation/oneDNN#6035).
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing, kernel_size=1, bias=False)

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, incoming, height, width)`` -> ``(batch, outgoing, ceil(height / 2), ceil(width / 2))``."""
        every_second = samples[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return super().forward(every_second)


def initialize(module: nn.Module) -> None:
    """Kaiming normal (fan-out, ReLU) for every convolution, 1 / 0 for every batch normalization, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def average_over_frames(backbone: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Features of ``backbone``; frames are folded into the batch and their features averaged.

    All frames have one size, so this is OGM-GE's three-dimensional average over time and space.

    Args:
        backbone: ``(images, channels, height, width)`` -> ``(images, width)``.
        samples: ``(batch, channels, height, width)`` or ``(batch, frames, channels, height, width)``.

    Returns:
        ``(batch, width)``.
    """
    if samples.dim() == 4:
        return backbone(samples)
    features: Tensor = backbone(samples.flatten(0, 1))
    return torch.mean(features.unflatten(0, samples.shape[:2]), dim=1)


ENCODERS: dict[str, Callable[[int], Encoder]] = {
    "resnet18": ResNet18,
    "resnet_narrow": ResNetNarrow,
}


def build_encoder(name: str, spec: InputSpec) -> Encoder:
    """A new encoder for one modality; its attribute ``width`` is the number of features.

    Args:
        name: key of ``ENCODERS``.
        spec: what the modality looks like; only the number of channels matters here.

    Raises:
        UserError: unknown ``name``.
    """
    if name not in ENCODERS:
        raise UserError(f"encoder={name} is not known; give one of {', '.join(ENCODERS)}")
    return ENCODERS[name](spec.shape[-3])
