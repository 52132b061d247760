"""Fusion heads: exact split of the logits, parity with one linear layer, fallback, golden values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mm_balance.errors import UserError
from mm_balance.models import FUSIONS, build_fusion

WIDTHS = {"audio": 5, "visual": 7}
THREE = {**WIDTHS, "text": 3}


def random_features(widths, batch=6):
    return {name: torch.randn(batch, width) for name, width in widths.items()}


@pytest.mark.parametrize("name", ["concat", "sum"])
@pytest.mark.parametrize("widths", [WIDTHS, THREE], ids=["two", "three"])
def test_unimodal_logits_sum_to_the_fused_ones(name, widths):
    fusion = build_fusion(name, widths, 4)
    assert fusion.exact_unimodal
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_()
    fused, unimodal = fusion(random_features(widths))
    assert list(unimodal) == list(widths)
    torch.testing.assert_close(fused, sum(unimodal.values()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("widths", [WIDTHS, THREE], ids=["two", "three"])
def test_concat_is_one_linear_layer_on_the_concatenated_features(widths):
    fusion = build_fusion("concat", widths, 4)
    joint = nn.Linear(sum(widths.values()), 4)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([fusion.blocks[name].weight for name in widths], dim=1))
        joint.bias.copy_(fusion.bias)
    features = random_features(widths)
    fused, unimodal = fusion(features)
    torch.testing.assert_close(fused, joint(torch.cat([features[name] for name in widths], dim=1)), atol=1e-5, rtol=0)
    for name in widths:
        expected = features[name] @ fusion.blocks[name].weight.T + joint.bias / len(widths)
        torch.testing.assert_close(unimodal[name], expected, atol=1e-5, rtol=0)


def test_concat_starts_like_one_linear_layer_over_the_concatenated_width():
    torch.manual_seed(3)
    fusion = build_fusion("concat", WIDTHS, 4)
    torch.manual_seed(3)
    joint = nn.Linear(12, 4)
    blocks = torch.cat([fusion.blocks[name].weight for name in WIDTHS], dim=1)
    assert torch.equal(blocks, joint.weight)
    assert torch.equal(fusion.bias, joint.bias)


@pytest.mark.parametrize("name", ["film", "gated"])
def test_fallback_is_the_head_with_the_other_feature_set_to_zero(name):
    fusion = build_fusion(name, WIDTHS, 4)
    assert not fusion.exact_unimodal
    features = random_features(WIDTHS)
    _, unimodal = fusion(features)
    for alone in WIDTHS:
        masked = {key: value if key == alone else torch.zeros_like(value) for key, value in features.items()}
        torch.testing.assert_close(unimodal[alone], fusion(masked)[0])


@pytest.mark.parametrize("name", ["film", "gated"])
def test_pair_fusions_refuse_three_modalities(name):
    with pytest.raises(UserError, match=r"exactly two modalities.*audio, visual, text.*concat"):
        build_fusion(name, THREE, 4)


def test_unknown_fusion_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"fusion=attention.*concat, sum, film, gated"):
        build_fusion("attention", WIDTHS, 4)


@pytest.mark.parametrize("name", FUSIONS)
def test_head_and_shared_parameters_are_all_parameters_once(name):
    fusion = build_fusion(name, WIDTHS, 4)
    groups = [*(fusion.head_parameters(modality) for modality in WIDTHS), fusion.shared_parameters()]
    found = [id(parameter) for group in groups for parameter in group]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in fusion.parameters()}


def test_golden_values_of_film_and_gated():
    """Worked by hand from OGM-GE's definitions (models/fusion_modules.py at 343dc1d); audio acts on visual."""
    features = {"audio": torch.tensor([[1.0, -2.0]]), "visual": torch.tensor([[0.5, 3.0]])}
    film, gated = (build_fusion(name, {"audio": 2, "visual": 2}, 2) for name in ("film", "gated"))
    with torch.no_grad():
        for fusion in (film, gated):
            fusion.output.weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))
            fusion.output.bias.copy_(torch.tensor([0.05, -0.05]))
        film.modulation.weight.copy_(torch.tensor([[0.1, 0.2], [0.3, -0.1], [0.5, 0.0], [-0.2, 0.4]]))
        film.modulation.bias.copy_(torch.tensor([0.0, 0.1, -0.1, 0.2]))
        gated.layers["audio"].weight.copy_(torch.tensor([[0.2, 0.1], [-0.3, 0.4]]))
        gated.layers["audio"].bias.copy_(torch.tensor([0.1, 0.0]))
        gated.layers["visual"].weight.copy_(torch.tensor([[0.6, -0.2], [0.1, 0.5]]))
        gated.layers["visual"].bias.copy_(torch.tensor([0.0, -0.1]))
    torch.testing.assert_close(film(features)[0], torch.tensor([[-0.7, 2.075]]))
    torch.testing.assert_close(gated(features)[0], torch.tensor([[-0.469617, 0.595499]]), atol=1e-5, rtol=0)
