"""Residual networks for sounds, images and videos.

Initialization as in the official code of OGM-GE, PMR and MLA: convolutions Kaiming normal (fan-out), batch normalization 1 / 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, resnet18

from mm_balance.models.encoders.base import PICTURES, Encoder, average_over_frames
from mm_balance.types import InputSpec

NARROW_WIDTHS = (8, 16, 32, 64)


class ResNet18(Encoder):
    """torchvision's ResNet-18 without its classifier; the 7x7 stem takes the modality's channels."""

    kinds = PICTURES

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.features = 512
        self.backbone = resnet18(weights=None)
        self.backbone.conv1 = nn.Conv2d(spec.shape[-3], 64, kernel_size=7, stride=2, padding=3, bias=False)
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

    kinds = PICTURES

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.features = NARROW_WIDTHS[-1]
        stem = NARROW_WIDTHS[0]
        layers: list[nn.Module] = [
            nn.Conv2d(spec.shape[-3], stem, kernel_size=3, stride=2, padding=1, bias=False),
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
