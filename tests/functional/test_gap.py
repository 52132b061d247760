"""The gap says how far the leading modality is ahead, and its gradient goes where it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_balance.functional.gap import (
    gap_from_probabilities,
    modality_gap,
    true_class_probability,
    weaker_moving_gap,
)


def random_logits(seed: int, names=("audio", "visual"), samples: int = 6, classes: int = 4, scale: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = {name: scale * torch.randn(samples, classes, generator=generator, dtype=torch.float64) for name in names}
    return logits, torch.randint(classes, (samples,), generator=generator)


def test_golden_numbers():
    # Logits are log-probabilities, so the softmax gives the probabilities back: p_a = .8, .25, p_v = .2, .75.
    logits = {
        "audio": torch.tensor([[0.8, 0.2], [0.75, 0.25]]).log(),
        "visual": torch.tensor([[0.2, 0.8], [0.25, 0.75]]).log(),
    }
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(true_class_probability(logits["audio"], labels), torch.tensor([0.8, 0.25]))
    torch.testing.assert_close(modality_gap(logits, labels), torch.tensor([0.6, -0.5]))
    torch.testing.assert_close(modality_gap(logits, labels, leading="visual"), torch.tensor([-0.6, 0.5]))


def test_three_modalities_compare_the_leading_one_with_the_best_other():
    probabilities = {
        "audio": torch.tensor([0.5, 0.5]),
        "visual": torch.tensor([0.2, 0.9]),
        "text": torch.tensor([0.4, 0.1]),
    }
    torch.testing.assert_close(gap_from_probabilities(probabilities), torch.tensor([0.1, -0.4]))
    torch.testing.assert_close(gap_from_probabilities(probabilities, leading="text"), torch.tensor([-0.1, -0.8]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 3.0, 100.0]), count=st.integers(2, 4))
def test_range_and_antisymmetry(seed, scale, count):
    logits, labels = random_logits(seed, names=["audio", "visual", "text", "depth"][:count], scale=scale)
    gaps = modality_gap(logits, labels)
    assert gaps.shape == labels.shape
    assert (gaps.abs() <= 1).all()
    two = {name: logits[name] for name in ("audio", "visual")}
    exchanged = {name: logits[name] for name in ("visual", "audio")}
    assert torch.equal(modality_gap(two, labels), -modality_gap(exchanged, labels))


def test_half_precision_logits_give_single_precision_gaps():
    logits, labels = random_logits(0)
    half = {name: value.bfloat16() for name, value in logits.items()}
    gaps = modality_gap(half, labels)
    assert gaps.dtype == torch.float32
    torch.testing.assert_close(gaps, modality_gap({name: value.float() for name, value in half.items()}, labels))


def test_gradient_is_right():
    logits, labels = random_logits(1)
    inputs = [value.requires_grad_() for value in logits.values()]
    assert torch.autograd.gradcheck(lambda a, v: modality_gap({"audio": a, "visual": v}, labels), inputs)


@pytest.mark.parametrize("names", [("audio", "visual"), ("audio", "visual", "text")])
def test_weaker_moving_gap_has_the_same_value_and_moves_the_weaker_side_alone(names):
    logits, labels = random_logits(2, names=names, samples=20)
    for value in logits.values():
        value.requires_grad_()
    probabilities = {name: true_class_probability(value, labels) for name, value in logits.items()}
    gaps = weaker_moving_gap(probabilities)
    assert torch.equal(gaps, gap_from_probabilities(probabilities))
    gaps.abs().sum().backward()
    leads = gaps > 0
    assert leads.any()
    assert not leads.all()
    assert (logits["audio"].grad[leads] == 0).all()
    assert (logits["audio"].grad[~leads].abs().sum(dim=1) > 0).all()
    for name in names[1:]:
        assert (logits[name].grad[~leads] == 0).all()
    others = sum(logits[name].grad.abs().sum(dim=1) for name in names[1:])
    assert (others[leads] > 0).all()


def test_weaker_moving_gap_raises_the_weaker_probability():
    logits, labels = random_logits(3, samples=20)
    for value in logits.values():
        value.requires_grad_()
    before = {name: true_class_probability(value, labels) for name, value in logits.items()}
    weaker_moving_gap(before).abs().sum().backward()
    after = {name: true_class_probability(value - 1e-3 * value.grad, labels) for name, value in logits.items()}
    stronger = torch.maximum(before["audio"], before["visual"])
    assert torch.equal(torch.maximum(after["audio"], after["visual"]), stronger)
    assert (torch.minimum(*after.values()) > torch.minimum(*before.values())).all()


def test_errors_name_what_is_wrong():
    logits, labels = random_logits(0)
    with pytest.raises(ValueError, match=r"two or more modalities.*audio"):
        modality_gap({"audio": logits["audio"]}, labels)
    with pytest.raises(ValueError, match=r"leading=text.*visual"):
        modality_gap(logits, labels, leading="text")
    with pytest.raises(ValueError, match=r"labels \(5,\)"):
        modality_gap(logits, labels[:5])
    with pytest.raises(ValueError, match="two or more"):
        weaker_moving_gap({})
