"""The losses against hand computation, naive loops and their own invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_balance.functional.adaptive import FORMS, LossWeights, adaptive_loss, posterior_weights, warmup_loss

PARTS = ("fusion", "unimodal", "gap", "shift", "hard")

# Three samples, two classes, logits = log-probabilities.        sample 1   2      3
#   p_fused of the true class                                     .5        .8     .25
#   p_audio, p_visual                                             .8, .2    .5,.25 .25,.75
#   D                                                             .6        .25    -.5
#   q_m                                                           1         .5     0
#   L_f                                                           ln 2      ln 1.25  ln 4
#   L_a + L_v                                                     ln 6.25   ln 8   ln(16/3)
LABELS = torch.tensor([0, 1, 0])
FUSED = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.25, 0.75]], dtype=torch.float64).log()
LOGITS = {
    "audio": torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.25, 0.75]], dtype=torch.float64).log(),
    "visual": torch.tensor([[0.2, 0.8], [0.75, 0.25], [0.75, 0.25]], dtype=torch.float64).log(),
}
POSTERIOR = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
WEIGHTS = LossWeights(unimodal=2.0, gap=0.5, shift=3.0, hard=4.0, balanced_fusion=1.0)
# With lambda = .5 and mu_b = .1, sums over the samples divided by 3:
#   fusion  (1 + q_b) L_f: ln 2 + 1.5 ln 1.25 + 2 ln 4 = 3.800451 -> 1.266817; without delta: ln 10 / 3 = 0.767528
#   unimodal  2 (ln 6.25 + ln 8 + ln(16/3)) = 2 * 5.585999 -> 3.723999
#   gap  .5 * .5 * (.6 + .25 + .5) = .3375 -> .1125; times q_m: .25 * (.6 + .125) = .18125 -> .0604167
#   shift  .5 * 3 * (1 * .5^2 + .5 * .15^2) = .391875 -> .130625
#   hard  .5 * 4 * (ln 6.25 + .5 ln 8) = 5.744604 -> 1.914868; prose: 4 * (ln 2 + .5 ln 1.25) = 3.218876 -> 1.072959
GOLDEN = {
    "reconstructed": (1.266817, 3.723999, 0.1125, 0.130625, 1.914868),
    "prose": (0.767528, 3.723999, 0.1125, 0.130625, 1.072959),
    "abstract_v2": (1.266817, 3.723999, 0.0604167, 0.0, 0.0),
}


def loss(form="reconstructed", fused=FUSED, logits=LOGITS, labels=LABELS, posterior=POSTERIOR, **changes):
    settings_ = {"balanced_mean": 0.1, "weights": WEIGHTS, "anneal": 0.5, "form": form} | changes
    return adaptive_loss(fused, logits, labels, posterior_imbalanced=posterior, **settings_)


def random_case(seed, samples=7, classes=4, names=("audio", "visual")):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: 2 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)  # noqa: E731
    logits = {name: draw() for name in names}
    labels = torch.randint(classes, (samples,), generator=generator)
    return draw(), logits, labels, torch.rand(samples, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("form", GOLDEN)
def test_golden_numbers(form):
    result = loss(form)
    assert [float(getattr(result, name)) for name in PARTS] == pytest.approx(GOLDEN[form], abs=1e-6)
    assert float(result.total) == pytest.approx(sum(GOLDEN[form]), abs=3e-6)
    assert list(result.parts()) == list(PARTS)


def test_every_form_has_golden_numbers():
    assert set(GOLDEN) == set(FORMS)


def test_absolute_shift():
    # Only sample 3 has another distance, and its q_m is 0; with q_m = 1 everywhere and the same mu_b = .1:
    # (.5^2 + .15^2 + (.5 - .1)^2) * 1.5 / 3 = .21625, against (-.5 - .1)^2: .31625 on the signed axis.
    ones = torch.ones_like(POSTERIOR)
    assert float(loss(posterior=ones, absolute=True).shift) == pytest.approx(0.21625)
    assert float(loss(posterior=ones).shift) == pytest.approx(0.31625)


def naive(form, fused, logits, labels, posterior, mu, weights, strength, absolute=False, q_balanced=None):
    """The forms of the loss in plain Python, one sample at a time."""
    total = 0.0
    for place, label in enumerate(labels.tolist()):

        def probability(row, label=label):
            top = max(row)
            powers = [math.exp(value - top) for value in row]
            return powers[label] / sum(powers)

        first, *others = [probability(value[place].tolist()) for value in logits.values()]
        gap = first - max(others)
        l_f = -math.log(probability(fused[place].tolist()))
        l_uni = -sum(math.log(value) for value in (first, *others))
        q_m = float(posterior[place])
        q_b = 1 - q_m if q_balanced is None else float(q_balanced[place])
        shift = ((abs(gap) if absolute else gap) - mu) ** 2
        fusion = (1 + weights.balanced_fusion * q_b) * l_f
        base = weights.unimodal * l_uni
        if form == "reconstructed":
            penalty = weights.gap * abs(gap) + weights.shift * q_m * shift + weights.hard * q_m * l_uni
            total += fusion + base + strength * penalty
        elif form == "prose":
            penalty = weights.gap * abs(gap) + weights.shift * q_m * shift
            total += l_f + base + strength * penalty + weights.hard * q_m * l_f
        else:
            total += fusion + base + strength * weights.gap * q_m * abs(gap)
    return total / len(labels)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    form=st.sampled_from(sorted(FORMS)),
    names=st.sampled_from([("audio", "visual"), ("audio", "visual", "text")]),
    absolute=st.booleans(),
    gap_gradient=st.sampled_from(["both", "weaker"]),
    numbers=st.lists(st.floats(0, 3), min_size=6, max_size=6),
    mu=st.floats(-0.5, 0.5),
)
def test_agrees_with_a_naive_loop_and_parts_add_up(seed, form, names, absolute, gap_gradient, numbers, mu):
    fused, logits, labels, posterior = random_case(seed, names=names)
    *values, strength = numbers
    weights = LossWeights(*values)
    result = loss(
        form, fused, logits, labels, posterior,
        balanced_mean=mu, weights=weights, anneal=strength, absolute=absolute, gap_gradient=gap_gradient,
    )  # fmt: skip
    expected = naive(form, fused, logits, labels, posterior, mu, weights, strength, absolute)
    assert float(result.total) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(sum(getattr(result, name) for name in PARTS)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), form=st.sampled_from(sorted(FORMS)))
def test_order_of_the_batch_does_not_matter(seed, form):
    fused, logits, labels, posterior = random_case(seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    moved = {name: value[order] for name, value in logits.items()}
    torch.testing.assert_close(
        loss(form, fused[order], moved, labels[order], posterior[order]).total,
        loss(form, fused, logits, labels, posterior).total,
    )


@pytest.mark.parametrize("form", FORMS)
def test_without_weights_it_is_the_warmup_loss(form):
    weights = LossWeights(unimodal=0.7, gap=0, shift=0, hard=0, balanced_fusion=0)
    found = loss(form, weights=weights)
    expected = warmup_loss(FUSED, LOGITS, LABELS, unimodal_weight=0.7)
    assert torch.equal(found.total, expected.total)
    for name in PARTS:
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_warmup_golden_numbers():
    # ln 10 / 3 and 5.585999 / 3
    result = warmup_loss(FUSED, LOGITS, LABELS, unimodal_weight=1.0)
    assert [float(value) for value in result.parts().values()] == pytest.approx([0.767528, 1.862000, 0, 0, 0], abs=1e-6)
    joint = warmup_loss(FUSED, LOGITS, LABELS, unimodal_weight=0.0)
    torch.testing.assert_close(joint.total, torch.nn.functional.cross_entropy(FUSED, LABELS))


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_right(form, absolute):
    fused, logits, labels, posterior = random_case(11)
    inputs = [value.requires_grad_() for value in (fused, *logits.values())]

    def total(fused, audio, visual):
        return loss(form, fused, {"audio": audio, "visual": visual}, labels, posterior, absolute=absolute).total

    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stronger", ["audio", "visual"])
def test_one_sided_gradient_is_right(form, stronger):
    # Numerical differences move the value of both sides, so the side whose gradient is cut off is held constant.
    fused, logits, labels, posterior = random_case(12)
    weaker = "visual" if stronger == "audio" else "audio"
    logits[stronger] = logits[stronger] + 20 * torch.nn.functional.one_hot(labels, 4)
    inputs = [fused.requires_grad_(), logits[weaker].requires_grad_()]

    def total(fused, moving):
        both = {name: moving if name == weaker else logits[name] for name in logits}
        return loss(form, fused, both, labels, posterior, gap_gradient="weaker").total

    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("form", FORMS)
def test_gap_terms_leave_the_stronger_modality_alone_when_one_sided(form):
    fused, logits, labels, posterior = random_case(13, samples=30)
    for value in logits.values():
        value.requires_grad_()
    weights = LossWeights(unimodal=0, gap=1, shift=1, hard=0)
    result = loss(form, fused, logits, labels, posterior, weights=weights, gap_gradient="weaker")
    (result.gap + result.shift).backward()
    chosen = {name: value.softmax(1).gather(1, labels[:, None])[:, 0] for name, value in logits.items()}
    leads = chosen["audio"] > chosen["visual"]
    assert leads.any()
    assert not leads.all()
    assert (logits["audio"].grad[leads] == 0).all()
    assert (logits["visual"].grad[~leads] == 0).all()
    assert (logits["visual"].grad[leads] != 0).any()
    assert (logits["audio"].grad[~leads] != 0).any()


def test_nothing_flows_into_the_posteriors_and_parts_are_detached():
    posterior = POSTERIOR.clone().requires_grad_()
    other = POSTERIOR.clone().requires_grad_()
    fused = FUSED.clone().requires_grad_()
    result = loss(fused=fused, posterior=posterior, posterior_balanced=other)
    result.total.backward()
    assert posterior.grad is None
    assert other.grad is None
    assert fused.grad is not None
    assert not any(value.requires_grad for value in result.parts().values())


def test_half_precision_is_widened():
    half = {name: value.bfloat16() for name, value in LOGITS.items()}
    result = loss(fused=FUSED.bfloat16(), logits=half)
    assert result.total.dtype == torch.float32
    assert float(result.total) == pytest.approx(float(loss().total), rel=2e-2)


def test_posterior_weighting():
    posterior = torch.tensor([0.2, 0.9])
    for kind, expected in {
        "posterior": ([0.2, 0.9], [0.8, 0.1]),
        "none": ([1.0, 1.0], [1.0, 1.0]),
        "prior": ([0.3, 0.3], [0.7, 0.7]),
    }.items():
        imbalanced, balanced = posterior_weights(posterior, 0.3, kind)
        torch.testing.assert_close(imbalanced, torch.tensor(expected[0]))
        torch.testing.assert_close(balanced, torch.tensor(expected[1]))
    with pytest.raises(ValueError, match="posterior, none or prior"):
        posterior_weights(posterior, 0.3, "uniform")


def test_both_posteriors_can_be_one():
    ones = torch.ones_like(POSTERIOR)
    # Twice the fusion loss: 2 ln 10 / 3.
    assert float(loss(posterior=ones, posterior_balanced=ones).fusion) == pytest.approx(2 * math.log(10) / 3)
    assert float(loss(posterior=ones).fusion) == pytest.approx(math.log(10) / 3)


@pytest.mark.parametrize("name", ["unimodal", "gap", "shift", "hard", "balanced_fusion"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_are_finite_and_not_negative(name, value):
    with pytest.raises(ValueError, match=name):
        LossWeights(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "authors"}, "reconstructed, prose, abstract_v2"),
        ({"gap_gradient": "stronger"}, "both or weaker"),
        ({"anneal": -1.0}, "anneal"),
        ({"anneal": math.nan}, "anneal"),
        ({"posterior": POSTERIOR[:, None]}, "posterior_imbalanced has shape"),
        ({"posterior_balanced": POSTERIOR[:2]}, "posterior_balanced has shape"),
        ({"fused": FUSED[:2]}, "logits have shape"),
        ({"labels": LABELS[:2], "posterior": POSTERIOR[:2]}, "labels"),
        ({"logits": LOGITS | {"fused": torch.zeros(3, 5)}}, "fused logits have shape"),
        ({"logits": {"audio": LOGITS["audio"]}}, "two or more"),
        ({"logits": {}}, "at least one modality"),
    ],
)
def test_errors_name_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        loss(**changes)


def test_warmup_errors():
    with pytest.raises(ValueError, match="unimodal"):
        warmup_loss(FUSED, LOGITS, LABELS, unimodal_weight=-1.0)
    with pytest.raises(ValueError, match="logits have shape"):
        warmup_loss(FUSED, {"audio": torch.zeros(3, 9)}, LABELS, unimodal_weight=1.0)


# Two samples, three classes, logits = logits of probabilities. Several true classes: 0 and 1 of the first sample, 2 of the second.
#   D = (.8 + .6) / 2 - (.2 + .4) / 2 = .4 and .25 - .75 = -.5; q_m = 1 and .5; L_f = ln 2 twice
#   L_a + L_v, binary, mean over the classes: -(ln(.8 * .6 * .9) + ln(.2 * .4 * .1)) / 3 = 1.889214
#                                         and -(ln(.5 * .5 * .25) + ln(.5 * .5 * .75)) / 3 = 1.482188
MULTI_HOT = torch.tensor([[1, 1, 0], [0, 0, 1]])
MULTI_FUSED = torch.zeros(2, 3, dtype=torch.float64)
MULTI_LOGITS = {
    "audio": torch.tensor([[0.8, 0.6, 0.1], [0.5, 0.5, 0.25]], dtype=torch.float64).logit(),
    "visual": torch.tensor([[0.2, 0.4, 0.9], [0.5, 0.5, 0.75]], dtype=torch.float64).logit(),
}
# With the weights, lambda and mu_b of above, sums divided by 2:
#   fusion (1 + 1.5) ln 2 / 2 = 0.866434; without delta ln 2.  unimodal 2 * 3.371403 / 2
#   gap .25 * (.4 + .5) / 2 = .1125; times q_m .25 * (.4 + .25) / 2 = .08125.  shift 1.5 * (.3^2 + .5 * .6^2) / 2 = .2025
#   hard 2 * (1.889214 + .5 * 1.482188) / 2 = 2.630309; prose 4 * 1.5 ln 2 / 2 = 2.079442
MULTI_GOLDEN = {
    "reconstructed": (0.866434, 3.371403, 0.1125, 0.2025, 2.630309),
    "prose": (0.693147, 3.371403, 0.1125, 0.2025, 2.079442),
    "abstract_v2": (0.866434, 3.371403, 0.08125, 0.0, 0.0),
}


def multi_loss(form="reconstructed", labels=MULTI_HOT, logits=MULTI_LOGITS, fused=MULTI_FUSED, **changes):
    return loss(form, fused, logits, labels, POSTERIOR[:2], **changes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_golden_numbers_of_several_true_classes(form, dtype):
    result = multi_loss(form, MULTI_HOT.to(dtype))
    assert [float(getattr(result, name)) for name in PARTS] == pytest.approx(MULTI_GOLDEN[form], abs=1e-6)
    assert float(result.total) == pytest.approx(sum(MULTI_GOLDEN[form]), abs=3e-6)


def test_the_warm_up_of_several_true_classes():
    result = warmup_loss(MULTI_FUSED, MULTI_LOGITS, MULTI_HOT, unimodal_weight=2.0)
    assert float(result.fusion) == pytest.approx(math.log(2))
    assert float(result.unimodal) == pytest.approx(3.371403, abs=1e-6)
    off = multi_loss(weights=LossWeights(unimodal=2.0, gap=0, shift=0, hard=0))
    assert torch.equal(off.total, result.total)


def test_the_gradient_of_several_true_classes_is_right():
    inputs = [value.clone().requires_grad_() for value in (MULTI_FUSED, *MULTI_LOGITS.values())]

    def total(fused, audio, visual):
        return multi_loss(fused=fused, logits={"audio": audio, "visual": visual}).total

    assert torch.autograd.gradcheck(total, inputs)


def test_several_true_classes_move_only_the_weaker_modality_if_asked():
    logits = {name: value.clone().requires_grad_() for name, value in MULTI_LOGITS.items()}
    multi_loss(logits=logits, gap_gradient="weaker", weights=LossWeights(0, 1, 0, 0, 0)).gap.backward()
    assert (logits["audio"].grad[0] == 0).all()
    assert (logits["visual"].grad[0] != 0).tolist() == [True, True, False]
    assert (logits["visual"].grad[1] == 0).all()


def test_half_precision_with_several_true_classes():
    half = {name: value.half() for name, value in MULTI_LOGITS.items()}
    result = multi_loss(fused=MULTI_FUSED.half(), logits=half)
    assert result.total.dtype == torch.float32
    assert float(result.total) == pytest.approx(sum(MULTI_GOLDEN["reconstructed"]), abs=0.02)


def test_class_numbers_give_the_cross_entropy_of_pytorch_to_the_last_bit():
    fused, logits, labels, _ = random_case(4, samples=50)
    result = warmup_loss(fused, logits, labels, unimodal_weight=1.0)
    expected = [
        torch.nn.functional.cross_entropy(value, labels, reduction="none") for value in (fused, *logits.values())
    ]
    assert torch.equal(result.fusion, expected[0].mean())
    assert torch.equal(result.unimodal, torch.stack(expected[1:]).sum(dim=0).mean())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[1, 1, 0], [0, 0, 0]]), "labels of row 1: no true class"),
        (torch.tensor([[1, 1, 0], [0, 0, 0.5]]), "labels of row 1: 0.5 is neither 0 nor 1. The method needs classes"),
        (torch.tensor([0.3, 1.7]), r"labels are torch.float32; need int64.*\(regression is not supported\)"),
        (torch.tensor([[1], [0]]), r"labels \(2, 1\); need .* \(B,\) class numbers or \(B, C\) multi-hot labels"),
    ],
)
def test_labels_that_are_no_classes_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        multi_loss(labels=labels)
    with pytest.raises(ValueError, match=message):
        warmup_loss(MULTI_FUSED, MULTI_LOGITS, labels, unimodal_weight=1.0)


def test_the_posterior_of_several_true_classes_is_one_number_per_sample():
    with pytest.raises(ValueError, match=r"posterior_imbalanced has shape \(2, 3\), labels \(2, 3\); need \(B,\)"):
        loss("reconstructed", MULTI_FUSED, MULTI_LOGITS, MULTI_HOT, torch.ones(2, 3))
