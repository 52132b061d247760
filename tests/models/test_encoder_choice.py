"""Which encoder a modality gets: by name, by kind of input, from libraries, from anywhere."""

import json
import sys
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from mm_balance.errors import UserError
from mm_balance.models import MultimodalNetwork, choose_encoders
from mm_balance.models.encoders import EncoderSpec
from mm_balance.types import InputSpec
from tests.helpers.outside import write_module

IMAGE = InputSpec("image", (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
SOUND = InputSpec("sound", (1, 32, 40), (0.0,), (1.0,))
VECTOR = InputSpec("vector", (7,), (0.0,) * 7, (1.0,) * 7)
SEQUENCE = InputSpec("sequence", (9, 6), (0.0,) * 6, (1.0,) * 6)
OWN = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, spec, width=5):
        super().__init__()
        self.linear = nn.Linear(spec.shape[0] if len(spec.shape) == 1 else 3, width)
    def forward(self, samples):
        return self.linear(samples if samples.dim() == 2 else samples.mean(dim=(2, 3)))

class Lying(Tiny):
    features = 9

def build(spec):
    return Tiny(spec)

def several(spec):
    return nn.Flatten(0)

def none(spec):
    return "no module"

number = 3
"""


@pytest.fixture
def own(import_folder):
    """A module of the user's, ``own_encoders``."""
    write_module(import_folder, "own_encoders", OWN)
    return "own_encoders"


def names(text, specs):
    return {name: spec.name for name, spec in choose_encoders(text, specs).items()}


def test_one_for_all_or_one_each_or_one_with_an_exception():
    specs = {"audio": SOUND, "visual": IMAGE}
    assert names("resnet18", specs) == {"audio": "resnet18", "visual": "resnet18"}
    assert names("audio:resnet_narrow, visual:resnet18", specs) == {"audio": "resnet_narrow", "visual": "resnet18"}
    assert names("resnet18,audio:resnet_narrow", specs) == {"audio": "resnet_narrow", "visual": "resnet18"}
    assert names("visual:own:build,audio:resnet18", specs) == {"audio": "resnet18", "visual": "own:build"}


def test_vectors_and_sequences_have_their_own_where_one_for_all_is_of_another_kind():
    specs = {"audio": VECTOR, "visual": IMAGE, "motion": SEQUENCE}
    assert names("resnet_narrow", specs) == {"audio": "mlp", "visual": "resnet_narrow", "motion": "transformer"}
    assert names("torchvision/alexnet", specs)["motion"] == "transformer"
    assert names("audio:mlp,visual:resnet18,motion:temporal_convolution", specs)["motion"] == "temporal_convolution"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio:resnet18", "nothing for visual"),
        ("audio:resnet18,audio:mlp,visual:mlp", "audio is given twice"),
        ("resnet18,resnet_narrow", "resnet18 and resnet_narrow are both for all"),
        ("vusual:resnet18,resnet18", "both for all modalities"),
        ("vusual:resnet18", r"the data have no modality 'vusual' \(did you mean visual\?\)"),
        (
            "resnet19",
            r"encoder=resnet19 is not known \(did you mean resnet18\?\); give one of .*mlp.*package.module:build",
        ),
        ("keras/vgg", "torchvision/NAME, timm/NAME or transformers/FOLDER"),
        ("torchvision/", "torchvision/NAME"),
        ("audio:,visual:mlp", "a value is missing"),
        ("", "a value is missing"),
        (
            "mlp",
            "encoder=mlp is for none of the modalities, which are an image or a sound; for example encoder=audio:resnet18",
        ),
        ("transformers/nowhere", "nowhere/config.json cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        choose_encoders(text, {"audio": SOUND, "visual": IMAGE})
    assert "\n" not in str(caught.value)


def test_an_encoder_of_the_users_is_any_module_that_gives_a_vector_per_sample(own):
    model = MultimodalNetwork({"audio": VECTOR, "visual": IMAGE}, 4, encoder=f"{own}:build", fusion="concat")
    assert model.widths == {"audio": 5, "visual": 5}
    output = model({"audio": torch.randn(3, 7), "visual": torch.randn(3, 3, 32, 32)})
    assert output.fused.shape == (3, 4)
    saved = json.loads(json.dumps(model.describe()))
    again = MultimodalNetwork.from_description(saved)
    again.load_state_dict(model.state_dict())
    assert type(again.encoders["audio"]).__name__ == "Tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent:build", "encoder=absent:build: there is no module absent; set PYTHONPATH to the folder that has it"),
        ("own_encoders:bild", "own_encoders has no bild; it has: Tiny, Lying, build, several, none"),
        ("own_encoders:number", "number is not a function, but a int"),
        ("own_encoders:none", "it returned a str, not a torch.nn.Module"),
        ("own_encoders:several", r"of 2 samples it gives \(14,\), not a tensor of shape \(2, features\)"),
        ("own_encoders:Lying", "it says features=9, but gives 5 per sample"),
        ("own-encoders:build", "is not an import path; write it as package.module:function"),
    ],
)
def test_an_encoder_of_the_users_that_cannot_be_one_is_refused_in_one_line(own, name, message):
    with pytest.raises(UserError, match=message) as caught:
        MultimodalNetwork({"audio": VECTOR, "visual": VECTOR}, 4, encoder=name, fusion="concat")
    assert "\n" not in str(caught.value)


def test_an_encoder_that_cannot_take_the_input_says_which_shape_it_was_given(own):
    odd = InputSpec("sequence", (9, 6), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(UserError, match=r"it cannot encode a sequence of shape \(2, 9, 6\)"):
        MultimodalNetwork({"audio": odd, "visual": odd}, 4, encoder=f"{own}:build", fusion="concat")


def test_trying_an_encoder_draws_no_random_numbers_and_leaves_it_in_training(own):
    torch.manual_seed(3)
    expected = nn.Linear(7, 5).weight.detach().clone(), torch.rand(1)
    torch.manual_seed(3)
    module, features = EncoderSpec("own", f"{own}:build").build(VECTOR)
    assert torch.equal(module.linear.weight, expected[0])
    assert torch.equal(torch.rand(1), expected[1])
    assert module.training
    assert features == 5


def test_an_installed_package_adds_encoders_by_entry_points(own, import_folder):
    folder = import_folder / "offered-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[mm_balance.encoders]\ntiny = {own}:build\nresnet18 = {own}:build\n")
    (folder / "top_level.txt").write_text(f"{own}\n")
    (folder / "RECORD").write_text("own_encoders.py,,\n")
    assert "tiny" in entry_points(group="mm_balance.encoders").names
    spec = choose_encoders("tiny", {"audio": VECTOR})["audio"]
    assert (spec.builder, spec.package) == (f"{own}:build", "offered")
    assert spec.build(VECTOR)[1] == 5
    with pytest.raises(
        UserError, match=r"encoder=resnet18 is ambiguous: .* and own_encoders:build of the installed package offered"
    ):
        choose_encoders("resnet18", {"visual": IMAGE})


def test_a_saved_model_names_the_package_that_is_missing():
    description = {"name": "tiny", "builder": "gone_away:build", "arguments": {}, "package": "gone-away"}
    with pytest.raises(
        UserError,
        match=r"encoder=tiny \(of the package gone-away\): there is no module gone_away; .*install its",
    ):
        EncoderSpec.from_description(description).build(VECTOR)


def test_a_description_from_before_encoders_could_differ_still_builds():
    model = MultimodalNetwork({"audio": SOUND, "visual": IMAGE}, 4, encoder="resnet_narrow", fusion="concat")
    description = model.describe()
    del description["encoders"]
    old = MultimodalNetwork.from_description({**description, "encoder": "resnet_narrow"})
    assert list(old.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_32"])
def test_classifiers_of_torchvision_by_name_for_any_number_of_channels(name):
    size = 64
    for channels in (1, 3) if name != "vit_b_32" else (1,):
        spec = InputSpec("image", (channels, size, size), (0.0,) * channels, (1.0,) * channels)
        module, features = choose_encoders(f"torchvision/{name}", {"visual": spec})["visual"].build(spec)
        assert module(torch.randn(2, channels, size, size)).shape == (2, features)
    assert not any(isinstance(layer, nn.Linear) and layer.out_features == 1000 for layer in module.modules())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "mobilenet_v3_smal",
            (3, 32, 32),
            r"torchvision has no model 'mobilenet_v3_smal' \(did you mean mobilenet_v3_small",
        ),
        ("squeezenet1_0", (3, 64, 64), "ends in no linear layer"),
        ("vit_b_16", (3, 32, 64), "vit_b_16 takes square pictures, not 32 x 64"),
        ("alexnet", (3, 16, 16), r"encoder=torchvision/alexnet: it cannot encode an image of shape \(2, 3, 16, 16\)"),
    ],
)
def test_what_torchvision_cannot_give_is_refused_in_one_line(name, shape, message):
    spec = InputSpec("image", shape, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UserError, match=message) as caught:
        choose_encoders(f"torchvision/{name}", {"visual": spec})["visual"].build(spec)
    assert "\n" not in str(caught.value)


def test_timm_by_name():
    pytest.importorskip("timm")
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        module, features = choose_encoders(f"timm/{name}", {"audio": SOUND})["audio"].build(
            spec := InputSpec("sound", (1, 32, 48), (0.0,), (1.0,))
        )
        assert module(torch.randn(2, *spec.shape)).shape == (2, features)
    with pytest.raises(UserError, match=r"timm has no model 'resnet10q' \(did you mean"):
        choose_encoders("timm/resnet10q", {"audio": SOUND})["audio"].build(SOUND)


def test_without_timm_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"encoder=timm/resnet10t needs the package timm: pip install 'mm-balance\[timm\]'"
    ):
        choose_encoders("timm/resnet10t", {"audio": SOUND})["audio"].build(SOUND)


@pytest.fixture
def vision_transformer(tmp_path):
    """A tiny vision transformer with weights in a local folder, and itself."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(1)
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit", model


def test_a_local_model_of_transformers_brings_its_configuration_along(vision_transformer):
    folder, model = vision_transformer
    spec = choose_encoders(f"transformers/{folder}", {"visual": IMAGE})["visual"]
    _, features = spec.build(IMAGE)
    assert features == 16
    network = MultimodalNetwork({"visual": IMAGE, "depth": IMAGE}, 3, encoder=f"transformers/{folder}", fusion="concat")
    network.load_pretrained("visual", spec.folder)
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixel_values=pictures).pooler_output
        assert torch.allclose(network.encoders["visual"].eval()(pictures), expected, atol=1e-6)
    described = json.loads(json.dumps(network.describe()))
    for file in folder.iterdir():
        file.unlink()
    again = MultimodalNetwork.from_description(described)  # the folder is no longer needed
    again.load_state_dict(network.state_dict())


def of_configuration(config):
    arguments = {"config": json.loads(config.to_json_string())}
    return EncoderSpec("transformers/folder", "mm_balance.models.encoders.libraries:transformers_model", arguments)


def test_a_spectrogram_transformer_takes_time_by_bins():
    transformers = pytest.importorskip("transformers")
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=40,
        num_mel_bins=32,
        patch_size=8,
    )
    spec = EncoderSpec(
        "ast",
        "mm_balance.models.encoders.libraries:transformers_model",
        {"config": json.loads(config.to_json_string())},
    )
    module, features = spec.build(SOUND)
    assert module(torch.randn(2, 1, 32, 40)).shape == (2, features) == (2, 16)


def test_a_model_of_words_is_refused():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    spec = EncoderSpec(
        "bert",
        "mm_balance.models.encoders.libraries:transformers_model",
        {"config": json.loads(config.to_json_string())},
    )
    with pytest.raises(UserError, match="bert takes input_ids; give a model of pictures or of spectrograms"):
        spec.build(IMAGE)
