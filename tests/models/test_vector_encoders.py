"""Encoders of vectors and sequences: shapes, padding, order."""

import pytest
import torch

from mm_balance.errors import UserError
from mm_balance.models import MultimodalNetwork, find_encoder
from mm_balance.models.encoders.vectors import mean_over_steps, padding, sinusoids
from mm_balance.types import InputSpec

SEQUENCE = InputSpec("sequence", (9, 6), (0.5,) * 6, (2.0,) * 6)
VECTOR = InputSpec("vector", (7,), tuple(range(7)), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
OF_SEQUENCES = ("mlp", "transformer", "temporal_convolution")


def encoder(name, spec=SEQUENCE):
    torch.manual_seed(0)
    return find_encoder(name).build(spec)[0].eval()


@pytest.mark.parametrize("name", OF_SEQUENCES)
def test_steps_that_are_padding_change_nothing(name):
    samples = torch.randn(2, 9, 6)
    samples[0, 4:] = 0.0
    network = encoder(name)
    whole = network(samples)
    if name == "temporal_convolution":  # its windows reach two steps into what follows
        assert whole.shape == (2, 64)
        return
    short = encoder(name, InputSpec("sequence", (4, 6), (0.5,) * 6, (2.0,) * 6))
    torch.testing.assert_close(whole[:1], short(samples[:1, :4]))


@pytest.mark.parametrize("name", OF_SEQUENCES)
def test_a_sample_of_nothing_but_padding_is_finite(name):
    assert encoder(name)(torch.zeros(3, 9, 6)).isfinite().all()


@pytest.mark.parametrize(("name", "matters"), [("mlp", False), ("transformer", True), ("temporal_convolution", True)])
def test_whether_the_order_of_steps_matters(name, matters):
    samples = torch.randn(2, 9, 6)
    one, other = encoder(name)(samples), encoder(name)(samples.flip(1))
    assert torch.allclose(one, other, atol=1e-6) is not matters


def test_padding_and_mean_by_hand():
    samples = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]], [[0.0, 0.0]] * 3])
    assert padding(samples).tolist() == [[False, True, False], [False, True, True]]
    assert mean_over_steps(samples, padding(samples)).tolist() == [[0.5, 1.0], [0.0, 0.0]]


def test_position_codes_by_hand():
    table = sinusoids(3, 4)
    assert table[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    expected = [0.9092974268, -0.4161468365, 0.0199986667, 0.9998000067]  # sin 2, cos 2, sin 0.02, cos 0.02
    assert table[2].tolist() == pytest.approx(expected, abs=1e-6)


def test_normalization_is_per_feature_and_padding_stays_zero():
    model = MultimodalNetwork({"audio": VECTOR, "motion": SEQUENCE}, 3, encoder="mlp", fusion="concat")
    inputs = {"audio": torch.arange(7.0).repeat(2, 1) + 1, "motion": torch.ones(2, 9, 6)}
    inputs["motion"][0, 5:] = 0.0
    torch.testing.assert_close(model._normalize("audio", inputs["audio"])[0], 1 / torch.arange(1.0, 8.0))
    motion = model._normalize("motion", inputs["motion"])
    assert motion[0, :5].eq(0.25).all()
    assert motion[0, 5:].eq(0.0).all()
    assert model(inputs).fused.shape == (2, 3)


def test_a_picture_cannot_be_encoded_as_a_sequence():
    picture = InputSpec("image", (3, 8, 8), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UserError, match="encoder=transformer takes a sequence, not an image"):
        find_encoder("transformer").build(picture)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (InputSpec("vector", (2, 3), (0.0,) * 3, (1.0,) * 3), r"the shape of a vector is \(features\), got \(2, 3\)"),
        (InputSpec("sequence", (3,), (0.0,) * 3, (1.0,) * 3), r"the shape of a sequence is \(steps, features\)"),
        (InputSpec("vector", (3,), (0.0,), (1.0,)), "one value for each of 3 features"),
        (InputSpec("smell", (3,), (0.0,), (1.0,)), "kind 'smell' is not one of sound, image, video, vector, sequence"),
    ],
)
def test_inconsistent_specs_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        MultimodalNetwork({"audio": spec}, 2, encoder="mlp", fusion="concat")
