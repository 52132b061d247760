"""Heads in descriptions: by import path and arguments, and by the words of older ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from mm_balance.errors import UserError
from mm_balance.methods import METHODS
from mm_balance.models import FUSIONS, Fusion, HeadSpec, LateFusion, MultimodalNetwork, OwnHeads
from mm_balance.models.head_spec import LEGACY_HEADS
from mm_balance.testing import tiny_data, tiny_stage

WIDTHS = {"audio": 4, "visual": 4}


class Halved(Fusion):
    """A head from outside the package."""

    def __init__(self, widths, classes, share, names=("a", "b")):
        super().__init__(widths, classes)
        self.share, self.names = share, names
        self.own = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    def forward(self, features):
        unimodal = {name: self.own[name](features[name]) for name in self.modalities}
        return self.share * sum(unimodal.values()), unimodal


def described(spec):
    return json.loads(json.dumps(spec.describe()))


@pytest.mark.parametrize(
    "spec",
    [
        HeadSpec(FUSIONS["film"]),
        HeadSpec(OwnHeads, {"joint": "gated"}),
        HeadSpec(LateFusion, {"mean_of": "logits"}),
        HeadSpec(Halved, {"share": 0.25, "names": ["c"]}),
    ],
)
def test_a_description_reads_back(spec):
    assert HeadSpec.from_description(described(spec)) == spec
    assert isinstance(HeadSpec.from_description(described(spec)).build(WIDTHS, 3), spec.head)


def test_a_network_takes_any_head_and_is_rebuilt_with_it():
    data = tiny_data()
    model = MultimodalNetwork(data.specs, 3, encoder="resnet_narrow", fusion=HeadSpec(Halved, {"share": 0.25})).eval()
    assert model.describe()["fusion"] == {"class": f"{__name__}:Halved", "arguments": {"share": 0.25}}
    rebuilt = MultimodalNetwork.from_description(json.loads(json.dumps(model.describe()))).eval()
    rebuilt.load_state_dict(model.state_dict())
    inputs = data.splits["val"].inputs
    assert torch.equal(rebuilt(inputs).fused, model(inputs).fused)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no_such_module:Head", "the model's head no_such_module:Head: there is no module no_such_module; set PYTHONPATH"),
        ("mm_balance.models.heads:Lost", "mm_balance.models.heads has no Lost; its Fusion classes: OwnHeads, LateFusion"),
        ("torch.nn:Linear", "Linear is not a Fusion; derive the class from mm_balance.models.fusion:Fusion"),
        ("os:system", "system is not a Fusion"),
        ("late logits", "not an import path"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_head_is_refused(path, told):
    with pytest.raises(UserError) as caught:
        HeadSpec.from_description({"class": path, "arguments": {}})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_that_nobody_can_import_is_refused():
    class Local(Halved):
        pass

    with pytest.raises(UserError, match="cannot be imported when a saved model is loaded: move it"):
        HeadSpec(Local, {"share": 1.0}).describe()
    Local.__module__, Local.__qualname__ = "__main__", "Local"
    with pytest.raises(UserError, match="the head __main__:Local cannot be imported"):
        HeadSpec(Local, {"share": 1.0}).describe()


def test_an_unknown_word_is_refused():
    for read in (HeadSpec.from_description, HeadSpec.of_fusion):
        with pytest.raises(UserError, match="fusion=attention is not known; give one of concat, sum, film, gated"):
            read("attention")


@pytest.mark.parametrize(
    ("word", "method", "settings"),
    [
        *((fusion, "concat", {}) for fusion in FUSIONS),
        *((f"{fusion}+own", "mmpareto", {}) for fusion in FUSIONS),
        ("late_logits", "lfm", {}),
        ("late_probabilities", "ensemble", {}),
        ("only:audio", "audio_only", {}),
        ("only:visual", "visual_only", {}),
        ("cosine", "mmcosine", {"scale": 3.0}),
        *((f"shared_{gate}", "mla", {"gate": gate}) for gate in ("entropy", "fixed", "batch")),
        ("boosted", "reconboost", {}),
    ],
)
def test_models_of_before_are_read(word, method, settings):
    """Their descriptions name the head by a word; everything that a method had set in it is among the weights."""
    fusion = word.removesuffix("+own") if word.removesuffix("+own") in FUSIONS else None
    model = tiny_stage(METHODS[method], settings, fusion=fusion).model.eval()
    old = MultimodalNetwork.from_description({**model.describe(), "fusion": word}).eval()
    assert type(old.fusion) is type(model.fusion)
    old.load_state_dict(model.state_dict())
    inputs = tiny_data().splits["val"].inputs
    assert torch.equal(old(inputs).fused, model(inputs).fused)
    assert word in FUSIONS or word in LEGACY_HEADS


def test_a_head_is_begun_from_the_warm_up_under_the_names_that_it_has_there():
    warmup = tiny_stage(METHODS["concat"]).model.state_dict()
    model = tiny_stage(METHODS["mmpareto"]).model
    fresh = model.initialize_from(warmup)
    assert fresh == [f"fusion.own.{name}.{part}" for name in ("audio", "visual") for part in ("weight", "bias")]
    assert torch.equal(model.state_dict()["fusion.joint.bias"], warmup["fusion.bias"])
