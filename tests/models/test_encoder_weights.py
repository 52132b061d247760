"""Pretrained weights, frozen encoders, learning rates of their own."""

import copy
import hashlib

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from mm_balance.config import chosen_modalities, scales_by_modality
from mm_balance.engine.step import EngineOptimizerStep, build_optimizer
from mm_balance.errors import UserError
from mm_balance.models import MultimodalNetwork, find_encoder, source_digest
from mm_balance.models.encoders import load_weights
from mm_balance.types import InputSpec


def spec(channels):
    return InputSpec("image", (channels, 32, 32), (0.0,) * channels, (1.0,) * channels)


@pytest.fixture
def pretrained(tmp_path):
    """The weights of torchvision's ResNet-18 in a file, and the network."""
    torch.manual_seed(5)
    network = torchvision.models.resnet18(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "resnet18.safetensors")
    return tmp_path / "resnet18.safetensors", network


def test_weights_of_the_same_architecture_under_another_prefix(pretrained):
    file, network = pretrained
    encoder, _ = find_encoder("resnet18").build(spec(3))
    loaded = load_weights(encoder, find_encoder("resnet18"), str(file))
    network.fc = nn.Identity()
    pictures = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder.eval()(pictures), network(pictures))
    assert loaded.unused == ("fc.bias", "fc.weight")
    assert loaded.text() == f"100 tensors from {file}; not used: fc.bias, fc.weight"


def test_one_channel_gives_what_three_equal_ones_gave(pretrained):
    file, network = pretrained
    encoder, _ = find_encoder("torchvision/resnet18").build(spec(1))
    loaded = load_weights(encoder, find_encoder("torchvision/resnet18"), str(file))
    network.fc = nn.Identity()
    gray = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(encoder.eval()(gray), network(gray.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)
    assert loaded.averaged == ("backbone.conv1.weight",)


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"state_dict": weights, "epoch": 3}])
def test_a_file_of_torch_that_weights_only_can_read(tmp_path, wrap):
    encoder, _ = find_encoder("mlp").build(InputSpec("vector", (4,), (0.0,) * 4, (1.0,) * 4))
    weights = {f"module.{name}": torch.randn_like(value) for name, value in encoder.state_dict().items()}
    torch.save(wrap(weights), tmp_path / "mlp.pt")
    load_weights(encoder, find_encoder("mlp"), str(tmp_path / "mlp.pt"))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[f"module.{name}"])


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_cannot_be_weights_are_refused_in_one_line(tmp_path, pretrained, capsys):
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "cut.safetensors").write_bytes(pretrained[0].read_bytes()[:100_000])
    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    messages = {
        "absent.pt": "cannot be read (No such file or directory)",
        "garbage.safetensors": "not a file of weights",
        "garbage.pt": "not a file of weights",
        "cut.safetensors": "not a file of weights",
        "evil.pt": "not a file of weights",
        "list.pt": "contains no state_dict",
    }
    encoder, _ = find_encoder("resnet18").build(spec(3))
    before = copy.deepcopy(encoder.state_dict())
    for name, message in messages.items():
        with pytest.raises(UserError) as caught:
            load_weights(encoder, find_encoder("resnet18"), str(tmp_path / name))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_weights_of_another_encoder_or_size_are_refused(tmp_path, pretrained):
    encoder, _ = find_encoder("resnet_narrow").build(spec(3))
    with pytest.raises(UserError, match=r"of the encoder's .* tensors are not in it, first .*; the file has"):
        load_weights(encoder, find_encoder("resnet_narrow"), str(pretrained[0]))
    wide, _ = find_encoder("mlp").build(InputSpec("vector", (9,), (0.0,) * 9, (1.0,) * 9))
    save_file(wide.state_dict(), tmp_path / "wide.safetensors")
    narrow, _ = find_encoder("mlp").build(InputSpec("vector", (4,), (0.0,) * 4, (1.0,) * 4))
    with pytest.raises(UserError, match=r"layers.0.weight has shape \(128, 9\) in the file, \(128, 4\) in the encoder"):
        load_weights(narrow, find_encoder("mlp"), str(tmp_path / "wide.safetensors"))


def test_the_digest_of_weights_is_that_of_the_file(pretrained):
    file, _ = pretrained
    assert source_digest(find_encoder("resnet18"), str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="absent: cannot be read"):
        source_digest(find_encoder("resnet18"), str(file.parent / "absent"))


@pytest.mark.parametrize("name", ["resnet_narrow", "mlp"])
def test_only_libraries_that_offer_weights_download_them(name):
    kind = spec(3) if name == "resnet_narrow" else InputSpec("vector", (4,), (0.0,) * 4, (1.0,) * 4)
    encoder, _ = find_encoder(name).build(kind)
    with pytest.raises(UserError, match="only torchvision and timm offer weights to download"):
        load_weights(encoder, find_encoder(name), "download")


def network(encoder="resnet_narrow"):
    torch.manual_seed(0)
    return MultimodalNetwork({"audio": spec(1), "visual": spec(3)}, 4, encoder=encoder, fusion="concat")


def train_once(model, scales):
    groups = model.parameters() if scales is None else model.learning_rate_groups(scales)
    optimizer = build_optimizer("sgd", groups, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    step = EngineOptimizerStep(optimizer, torch.device("cpu"), "float32")
    step.set_learning_rate(0.05)
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "audio": torch.randn(4, 1, 32, 32, generator=generator),
        "visual": torch.randn(4, 3, 32, 32, generator=generator),
    }
    model.train()
    before = copy.deepcopy(model.state_dict())
    step.zero_grad()
    step.backward(nn.functional.cross_entropy(model(inputs).fused, torch.arange(4)))
    step.step()
    return before, step


def moves(model, before, prefix):
    return torch.cat(
        [
            (model.state_dict()[name] - value).flatten()
            for name, value in before.items()
            if name.startswith(prefix) and value.dim() > 1
        ]
    )


def test_a_frozen_encoder_keeps_weights_and_statistics_and_its_head_learns():
    model = network()
    model.freeze(("audio",))
    before, _ = train_once(model, None)
    assert all(
        torch.equal(model.state_dict()[name], value)
        for name, value in before.items()
        if name.startswith("encoders.audio.")
    )
    assert moves(model, before, "encoders.visual").abs().max() > 0
    assert moves(model, before, "fusion.blocks.audio").abs().max() > 0
    assert not model.encoders["audio"].training
    assert model.encoders["visual"].training
    assert list(model.encoder_parameters("audio")) == []


def test_every_encoder_moves_by_its_share_of_the_learning_rate():
    whole, scaled = network(), network()
    before, _ = train_once(whole, None)
    train_once(scaled, {"audio": 0.5, "visual": 0.0})
    torch.testing.assert_close(moves(scaled, before, "encoders.audio"), 0.5 * moves(whole, before, "encoders.audio"))
    assert moves(scaled, before, "encoders.visual").abs().max() == 0
    torch.testing.assert_close(moves(scaled, before, "fusion"), moves(whole, before, "fusion"))


def test_scales_survive_saving_and_a_schedule():
    model = network()
    _, step = train_once(model, {"audio": 0.5, "visual": 0.1})
    _, other = train_once(network(), {"audio": 0.5, "visual": 0.1})
    other.load_state_dict(step.state_dict())
    other.set_learning_rate(1.0)
    assert sorted(group["lr"] for group in other.optimizer.param_groups) == [0.1, 0.5, 1.0]


def test_a_fresh_copy_begins_as_the_network_began(pretrained):
    model = network("resnet18")
    loaded = model.load_pretrained("visual", str(pretrained[0]))
    assert loaded.loaded == 100
    model.freeze(("visual",))
    begun = copy.deepcopy(model.encoders["visual"].state_dict())
    train_once(model, None)
    fresh = model.fresh()
    assert all(torch.equal(value, begun[name]) for name, value in fresh.encoders["visual"].state_dict().items())
    assert fresh.frozen == ("visual",)


def test_values_by_modality():
    names = ("audio", "visual")
    assert scales_by_modality("x", "0.5", names) == {"audio": 0.5, "visual": 0.5}
    assert scales_by_modality("x", "1.0,audio:0", names) == {"audio": 0.0, "visual": 1.0}
    assert chosen_modalities("x", None, names) == ()
    assert chosen_modalities("x", "all", names) == names
    assert chosen_modalities("x", "visual, audio", names) == names
    for text in ("much", "-1", "nan", "audio:1", "audio:inf,visual:1"):
        with pytest.raises(UserError, match="x="):
            scales_by_modality("x", text, names)
    with pytest.raises(UserError, match="no modality 'depth'; give all, none, or some of audio, visual"):
        chosen_modalities("x", "audio,depth", names)
