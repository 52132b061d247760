"""The whole network: normalization, checks, parameter groups, gradients, description."""

from __future__ import annotations

import json

import pytest
import torch

from mm_balance.errors import UserError
from mm_balance.models import FUSIONS, MultimodalNetwork
from mm_balance.types import InputSpec

AUDIO = InputSpec("sound", (1, 40, 32), (-3.0,), (2.0,))
VISUAL = InputSpec("image", (3, 36, 36), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
FRAMES = InputSpec("image", (2, 3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SPECS = {"audio": AUDIO, "visual": VISUAL}


def network(specs=None, *, encoder="resnet_narrow", fusion="concat") -> MultimodalNetwork:
    return MultimodalNetwork(specs or SPECS, 5, encoder=encoder, fusion=fusion)


def random_inputs(specs=None, batch=3) -> dict[str, torch.Tensor]:
    return {name: torch.randn(batch, *spec.shape) for name, spec in (specs or SPECS).items()}


@pytest.mark.parametrize("encoder", ["resnet18", "resnet_narrow"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_parameter_groups_partition_all_parameters(encoder, fusion):
    model = network(encoder=encoder, fusion=fusion)
    groups = [model.shared_parameters()]
    for modality in model.modalities:
        groups += [model.encoder_parameters(modality), model.head_parameters(modality)]
    found = [id(parameter) for group in groups for parameter in group]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_output_has_all_parts_in_order(fusion):
    model = network(fusion=fusion)
    output = model(random_inputs())
    assert model.modalities == tuple(output.unimodal) == tuple(output.features) == ("audio", "visual")
    assert output.fused.shape == output.unimodal["audio"].shape == (3, 5)
    assert output.features["visual"].shape == (3, 64)
    assert model.exact_unimodal == (fusion in ("concat", "sum"))


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("autocast", [False, True])
def test_fused_logits_are_the_sum_of_three_unimodal_ones(fusion, autocast):
    specs = {**SPECS, "depth": FRAMES}
    model = network(specs, fusion=fusion)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(random_inputs(specs))
    assert output.fused.dtype == torch.float32
    assert torch.isfinite(output.fused).all()
    torch.testing.assert_close(output.fused, sum(output.unimodal.values()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_gradient_of_a_unimodal_loss_stays_in_its_modality(fusion):
    model = network(fusion=fusion)
    model(random_inputs()).unimodal["audio"].square().sum().backward()
    own = [*model.encoder_parameters("audio"), *model.head_parameters("audio"), *model.shared_parameters()]
    other = [*model.encoder_parameters("visual"), *model.head_parameters("visual")]
    assert all(parameter.grad is not None for parameter in own)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in other)


def test_inputs_are_normalized_per_channel():
    model = network().eval()
    plain = network(
        {name: InputSpec(s.kind, s.shape, (0.0,) * len(s.mean), (1.0,) * len(s.std)) for name, s in SPECS.items()}
    )
    plain.load_state_dict(model.state_dict())
    inputs = random_inputs()
    by_hand = {
        name: (inputs[name] - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]
        for name, spec in SPECS.items()
    }
    torch.testing.assert_close(model(inputs).fused, plain.eval()(by_hand).fused)


@pytest.mark.parametrize("spec", [VISUAL, FRAMES], ids=["image", "frames"])
def test_bytes_mean_the_same_as_floats_from_zero_to_one(spec):
    specs = {"audio": AUDIO, "visual": spec}
    model = network(specs).eval()
    stored = torch.randint(0, 256, (2, *spec.shape), dtype=torch.uint8)
    audio = torch.randn(2, *AUDIO.shape)
    bytes_output = model({"audio": audio, "visual": stored})
    float_output = model({"audio": audio, "visual": stored.float() / 255})
    torch.testing.assert_close(bytes_output.fused, float_output.fused)


def test_channels_last_gives_the_same_logits():
    specs = {"audio": AUDIO, "visual": FRAMES}
    model = network(specs).eval()
    inputs = random_inputs(specs)
    before = model(inputs).fused
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(inputs).fused, before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_description_and_state_dict_rebuild_the_model(fusion):
    specs = {"visual": FRAMES, "audio": AUDIO}  # not in alphabetical order
    model = network(specs, fusion=fusion).eval()
    description = json.loads(json.dumps(model.describe(), sort_keys=True))
    assert description == model.describe()
    rebuilt = MultimodalNetwork.from_description(description)
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.modalities == ("visual", "audio")
    assert rebuilt.specs == specs
    inputs = random_inputs(specs)
    assert torch.equal(rebuilt.eval()(inputs).fused, model(inputs).fused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual": None}, "lack the modality 'visual'"),
        ({"visual": torch.zeros(3, 1, 36, 36)}, r"'visual' must have shape \(batch, 3, 36, 36\), got \(3, 1, 36, 36\)"),
        ({"visual": torch.zeros(3, 3, 36, 36, dtype=torch.int64)}, "'visual' must be floating point or uint8"),
        ({"visual": torch.zeros(2, 3, 36, 36)}, "differ in batch size"),
    ],
)
def test_unfit_inputs_are_named(change, message):
    inputs = {name: value for name, value in {**random_inputs(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        network()(inputs)


@pytest.mark.parametrize("name", ["", "optical.flow", "fused", "keys", "type"])
def test_names_that_torch_or_the_output_need_are_refused(name):
    with pytest.raises(UserError, match="is not a valid modality name"):
        network({**SPECS, name: AUDIO})


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec("image", (32, 32), (0.5,), (0.2,)),
        InputSpec("image", (3, 32, 32), (0.5,), (0.2,)),
        InputSpec("image", (1, 32, 32), (0.5,), (0.0,)),
    ],
    ids=["no channels", "one mean for three channels", "std of zero"],
)
def test_contradictory_specs_are_refused(spec):
    with pytest.raises(ValueError, match="modality 'visual'"):
        network({"audio": AUDIO, "visual": spec})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bytes_are_normalized_alike_in_every_layout(layout):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    specs = {
        "audio": InputSpec("sound", (1, 8, 8), (0.0,), (1.0,)),
        "visual": InputSpec("image", (3, 6, 10), mean, std),
    }
    network = MultimodalNetwork(specs, 2, encoder="resnet_narrow", fusion="concat")
    pixels = torch.randint(0, 256, (4, 3, 6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = network._normalize("visual", pixels.contiguous(memory_format=layout))
    expected = (pixels.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)
