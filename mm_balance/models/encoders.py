"""Encoders: samples of one modality -> features. No pretrained weights.

Initialization as in the official code of OGM-GE, PMR and MLA: convolutions Kaiming normal (fan-out), batch normalization 1 / 0.
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
        stage_widths: channels of the feature maps after each stage.
    """

    width: int
    stage_widths: tuple[int, ...]

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """Return the stages in order; the last part turns feature maps into features. Their composition equals ``forward``."""
        raise NotImplementedError


class ResNet18(Encoder):
    """torchvision's ResNet-18 without its classifier; the 7x7 stem takes the modality's channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = 512
        self.backbone = resnet18(weights=None)
        self.backbone.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.backbone.fc = nn.Identity()
        self.stage_widths = (64, 128, 256, 512)
        initialize(self.backbone)

    def parts(self) -> list[Callable[[Tensor], Tensor]]:
        """Return four stages (the stem is part of the first) and the pooling."""
        net = self.backbone
        first = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        return [first, net.layer2, net.layer3, net.layer4, nn.Sequential(net.avgpool, nn.Flatten())]

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` or ``(batch, frames, channels, height, width)`` -> ``(batch, 512)``."""
        return average_over_frames(self.backbone, samples)


class ResNetNarrow(Encoder):
    """ResNet-18 at an eighth of its width, for inputs of about 32-64 pixels and for CPUs.

    The stem is a 3x3 convolution with stride 2 without pooling: the usual 7x7 stem with pooling shrinks small images too
    much (it costs the visual branch of ``digits`` 10 points).
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
        """Return four stages of two blocks (the stem is part of the first) and the pooling."""
        return [self.backbone[:5], self.backbone[5:7], self.backbone[7:9], self.backbone[9:11], self.backbone[11:]]

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` or ``(batch, frames, channels, height, width)`` -> ``(batch, 64)``."""
        return average_over_frames(self.backbone, samples)


def _first_block(incoming: int, outgoing: int) -> BasicBlock:
    """First block of a stage; if the width grows, it halves the resolution and projects the shortcut."""
    if incoming == outgoing:
        return BasicBlock(incoming, outgoing)
    shortcut = nn.Sequential(EverySecondPixel(incoming, outgoing), nn.BatchNorm2d(outgoing))
    return BasicBlock(incoming, outgoing, stride=2, downsample=shortcut)


class EverySecondPixel(nn.Conv2d):
    """A 1x1 convolution with stride 2, implemented as pixel subsampling followed by stride 1.

    The result is identical, but oneDNN 3.13 (torch 2.15) writes out of bounds in the backward pass of the strided convolution
    for fewer than 16 input channels in channels-last format, and some batch sizes crash (uxlfoundation/oneDNN#6035).
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing, kernel_size=1, bias=False)

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, incoming, height, width)`` -> ``(batch, outgoing, ceil(height / 2), ceil(width / 2))``."""
        every_second = samples[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)
        return super().forward(every_second)


def initialize(module: nn.Module) -> None:
    """Initialize in place: Kaiming normal (fan-out, ReLU) for convolutions, 1 / 0 for batch normalization."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def average_over_frames(backbone: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Compute features with ``backbone``; frames are folded into the batch and their features averaged.

    All frames have the same size, so this equals OGM-GE's three-dimensional average over time and space.

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
    """Build an encoder for one modality; its attribute ``width`` is the number of features.

    Args:
        name: key of ``ENCODERS``.
        spec: input spec of the modality; only the number of channels is used.

    Raises:
        UserError: unknown ``name``.
    """
    if name not in ENCODERS:
        raise UserError(f"encoder={name} is not known; give one of {', '.join(ENCODERS)}")
    return ENCODERS[name](spec.shape[-3])
