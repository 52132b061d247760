"""The gap says how far the leading modality is ahead, and its gradient goes where it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_balance.functional.gap import (
    check_labels,
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


# Logits are logits of probabilities, so the sigmoid gives these back. True are classes 0 and 1 of the first sample, 2 of the second.
MULTI_HOT = torch.tensor([[1, 1, 0], [0, 0, 1]])
MULTI = {
    "audio": torch.tensor([[0.8, 0.6, 0.1], [0.5, 0.5, 0.25]], dtype=torch.float64).logit(),
    "visual": torch.tensor([[0.2, 0.4, 0.9], [0.5, 0.5, 0.75]], dtype=torch.float64).logit(),
}


def close(found, *expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_golden_numbers_of_several_true_classes(dtype):
    labels = MULTI_HOT.to(dtype)
    close(true_class_probability(MULTI["audio"], labels), 0.7, 0.25)
    close(true_class_probability(MULTI["visual"], labels), 0.3, 0.75)
    close(modality_gap(MULTI, labels), 0.4, -0.5)
    close(modality_gap(MULTI, labels, leading="visual"), -0.4, 0.5)


def test_of_three_modalities_the_probabilities_are_averaged_before_the_best_other_is_chosen():
    # On class 0 text is the best other (.9), on class 1 visual (.4); averaged, text (.45) beats visual (.3): .7 - .45.
    text = torch.tensor([[0.9, 0.0, 0.5], [0.0, 0.0, 0.5]], dtype=torch.float64).logit()
    close(modality_gap({**MULTI, "text": text}, MULTI_HOT), 0.25, -0.5)


def test_exactly_one_true_class_is_a_sigmoid_too():
    logits, labels = random_logits(5)
    one_hot = torch.nn.functional.one_hot(labels, 4)
    found = true_class_probability(logits["audio"], one_hot)
    torch.testing.assert_close(found, logits["audio"].gather(1, labels[:, None])[:, 0].sigmoid())
    assert (found - true_class_probability(logits["audio"], labels)).abs().max() > 0.1


def test_class_numbers_give_the_softmax_to_the_last_bit():
    logits, labels = random_logits(6, samples=50)
    for values in (logits["audio"], logits["audio"].float()):
        expected = values.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        assert torch.equal(true_class_probability(values, labels), expected)


def test_the_gradient_of_several_true_classes_is_right_and_reaches_only_these():
    inputs = [value.clone().requires_grad_() for value in MULTI.values()]
    assert torch.autograd.gradcheck(lambda a, v: modality_gap({"audio": a, "visual": v}, MULTI_HOT), inputs)
    modality_gap(dict(zip(MULTI, inputs, strict=True)), MULTI_HOT).sum().backward()
    assert torch.equal(inputs[0].grad != 0, MULTI_HOT == 1)


def test_a_class_that_is_ruled_out_and_half_precision():
    ruled_out = MULTI["audio"].clone()
    ruled_out[0, 1] = -torch.inf
    close(true_class_probability(ruled_out, MULTI_HOT), 0.4, 0.25)
    half = true_class_probability(MULTI["audio"].bfloat16(), MULTI_HOT)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, torch.tensor([0.7, 0.25]), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[1, 1, 0], [0, 0, 0]]), "labels of row 1: no true class, so it has no gap; leave such samples out"),
        (torch.tensor([[1, 2, 0], [0, 0, 1]]), "labels of row 0: 2 is neither 0 nor 1"),
        (torch.tensor([[1, 1, 0], [0.0, 0.0, 0.9]]), r"labels of row 1: 0\.9 is neither 0 nor 1\. The method needs classes"),
        (torch.tensor([[1, 1, 0], [0.0, torch.nan, 1.0]]), "labels of row 1: nan is neither 0 nor 1"),
        (torch.tensor([[1], [0]]), r"labels \(2, 1\); need \(B, C\), and \(B,\) class numbers or \(B, C\) multi-hot"),
        (torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0]]), r"labels \(2, 4\)"),
        (torch.tensor([0.5, 1.0]), r"labels are torch\.float32; need int64.*classes: a gap is .* \(regression is not supported\)"),
        (torch.tensor([True, False]), "labels are torch.bool; need int64, the number of the class$"),
    ],
)  # fmt: skip
def test_labels_that_are_no_classes_are_named(labels, message):
    for call in (lambda: modality_gap(MULTI, labels), lambda: check_labels(MULTI["audio"], labels)):
        with pytest.raises(ValueError, match=message) as found:
            call()
        assert "\n" not in str(found.value)
