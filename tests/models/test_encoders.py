"""Encoders: widths, channels, frames, initialization."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mm_balance.models import find_encoder
from mm_balance.models.encoders.resnet import EverySecondPixel
from mm_balance.types import InputSpec

WIDTHS = {"resnet18": 512, "resnet_narrow": 64}


def spec(*shape: int) -> InputSpec:
    channels = shape[-3]
    return InputSpec("image", shape, (0.0,) * channels, (1.0,) * channels)


def build_encoder(name: str, spec: InputSpec) -> nn.Module:
    return find_encoder(name).build(spec)[0]


@pytest.mark.parametrize("batch", [2, 3, 5, 13])
def test_every_second_pixel_is_the_strided_convolution(batch):
    """In both passes, at the batch sizes where oneDNN's own crashes (uxlfoundation/oneDNN#6035)."""
    torch.set_num_threads(2)
    ours = EverySecondPixel(8, 16).to(memory_format=torch.channels_last)
    theirs = torch.nn.Conv2d(8, 16, kernel_size=1, stride=2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    samples = torch.randn(batch, 8, 33, 94, generator=torch.Generator().manual_seed(0))
    found = ours(samples.contiguous(memory_format=torch.channels_last))
    expected = theirs.double()(samples.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.weight.grad.double(), theirs.weight.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("shape", [(1, 40, 32), (3, 36, 36), (2, 3, 32, 40)])
def test_features_have_the_declared_width_for_any_channels_and_frames(name, shape):
    encoder = build_encoder(name, spec(*shape)).eval()
    assert encoder.features == WIDTHS[name]
    assert encoder(torch.randn(2, *shape)).shape == (2, encoder.features)


@pytest.mark.parametrize("name", WIDTHS)
def test_stem_of_a_spectrogram_has_one_channel(name):
    stem = next(layer for layer in build_encoder(name, spec(1, 40, 64)).modules() if isinstance(layer, nn.Conv2d))
    assert stem.in_channels == 1
    assert stem.stride == (2, 2)


@pytest.mark.parametrize("name", WIDTHS)
def test_features_of_frames_are_averaged(name):
    encoder = build_encoder(name, spec(3, 3, 32, 32)).eval()
    frames = torch.randn(2, 3, 3, 32, 32)
    alone = torch.stack([encoder(frames[:, number]) for number in range(3)], dim=1)
    torch.testing.assert_close(encoder(frames), alone.mean(dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WIDTHS)
def test_initialization_is_kaiming_by_fan_out_and_unit_batch_norm(name):
    torch.manual_seed(0)
    for layer in build_encoder(name, spec(3, 32, 32)).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            expected = (2 / (layer.out_channels * layer.kernel_size[0] ** 2)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert abs(layer.weight.mean().item()) < 0.1 * expected
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_narrow_network_has_the_layout_of_resnet18_at_an_eighth_of_the_width():
    def convolution(incoming: int, outgoing: int, size: int) -> int:
        return incoming * outgoing * size**2 + 2 * outgoing  # with its batch normalization

    expected = convolution(1, 8, 3) + 4 * convolution(8, 8, 3)
    for incoming, outgoing in ((8, 16), (16, 32), (32, 64)):
        expected += convolution(incoming, outgoing, 3) + 3 * convolution(outgoing, outgoing, 3)
        expected += convolution(incoming, outgoing, 1)
    narrow = build_encoder("resnet_narrow", spec(1, 40, 64))
    assert sum(parameter.numel() for parameter in narrow.parameters()) == expected == 175_608
    wide = build_encoder("resnet18", spec(1, 40, 64))
    assert len(list(narrow.parameters())) == len(list(wide.parameters()))
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in narrow.modules())
