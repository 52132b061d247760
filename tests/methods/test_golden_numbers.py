"""Golden numbers of every method, worked out in float64 outside this project, and parity with plain recomputations."""

import math

import pytest
import torch
from torch.nn import functional

from mm_balance.functional.blending import blending_weights
from mm_balance.functional.contribution import shapley_shares, shapley_values
from mm_balance.functional.diagnosis import cluster_purity
from mm_balance.functional.gradients import min_norm_weight, pareto_gradients
from mm_balance.functional.modulation import (
    discrepancy_ratios,
    drop_features,
    drop_probabilities,
    modulate_,
    normal_draws,
    ogm_coefficients,
)
from mm_balance.functional.projection import next_projection
from mm_balance.functional.prototypes import class_means, moved_prototypes, prototype_logits
from mm_balance.methods.agm import agm_factors
from mm_balance.methods.amco import dependence, mask_share, random_mask
from mm_balance.methods.base import true_scores
from mm_balance.methods.cml import confidence_rise, counted
from mm_balance.methods.diagnose_relearn import relearn_weight
from mm_balance.methods.focal import focal_losses
from mm_balance.methods.greedy import fastest_branch
from mm_balance.methods.lfm import alignment, classification_share
from mm_balance.methods.mbsd import pair_distillation
from mm_balance.methods.mla import SharedHead
from mm_balance.methods.mmcosine import CosineHead
from mm_balance.methods.pmr import mean_entropy, prototype_weights
from mm_balance.methods.reconboost import boosting_losses
from mm_balance.methods.sample_valuation import copies, modality_share, shapley_of_samples
from mm_balance.methods.umt import feature_distance
from mm_balance.models import LateFusion
from mm_balance.types import Output


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def near(found, expected, rel=2e-5):
    torch.testing.assert_close(torch.as_tensor(found).double(), tensor(expected), rtol=rel, atol=2e-6)


LABELS = torch.tensor([0, 1, 2, 0])
AUDIO = tensor([[2, 0, -1], [0.5, 1.5, 0], [1, 1, 2], [0, 0, 1]])
VISUAL = tensor([[0.5, 0, 0], [0, 0.2, 0.1], [0.3, 0.1, 0], [0, 0.5, 0]])


def ratios():
    return discrepancy_ratios(true_scores(Output(AUDIO + VISUAL, {"audio": AUDIO, "visual": VISUAL}, {}), LABELS))


# G-Blending


def test_g_blending_weights():
    before = dict.fromkeys(("audio", "visual", "joint"), (1.80, 1.79))
    after = {"audio": (1.30, 0.60), "visual": (1.45, 1.20), "joint": (1.20, 0.40)}
    weights = blending_weights(before, after)
    near(list(weights.values()), [0.129847, 0.751287, 0.118866])
    near(sum(weights[name] * value for name, value in zip(weights, (0.9, 1.1, 0.7), strict=True)), 1.02648)


def test_g_blending_guards():
    before = {"audio": (1.0, 1.0), "visual": (1.0, 1.0)}
    assert blending_weights(before, {"audio": (1.2, 0.5), "visual": (1.1, 0.5)}) == {"audio": 0.5, "visual": 0.5}
    weights = blending_weights(before, {"audio": (0.5, 0.5), "visual": (1.1, 0.5)})  # no overfitting at all
    assert weights == {"audio": 1.0, "visual": 0.0}


# OGM, OGM-GE


def test_ogm_ratios_and_coefficients():
    found = ratios()
    near(found["audio"], 1.63496)
    near(found["visual"], 0.611635)
    for alpha, expected in ((0.1, 0.837945), (0.3, 0.545396), (0.8, 0.136239)):
        factors = ogm_coefficients(found, alpha)
        near(factors["audio"], expected)
        assert float(factors["visual"]) == 1.0


def test_ogm_at_a_tie():
    tie = {"audio": tensor(1.0), "visual": tensor(1.0)}
    assert [float(value) for value in ogm_coefficients(tie, 0.8).values()] == [1.0, 1.0]
    official = ogm_coefficients(tie, 0.8, first_loses_ties=True)
    near(official["audio"], 1 - math.tanh(0.8))
    assert float(official["visual"]) == 1.0


def test_ogm_ge_noise():
    gradient = tensor([0.1, -0.2, 0.3, 0.4]).view(1, 1, 2, 2)
    near(gradient.std(), 0.264575)
    noise = tensor([1, -1, 0.5, 0]).view(1, 1, 2, 2)
    found, plain = gradient.clone(), gradient.clone()
    modulate_(found, tensor(0.136239), noise)
    near(found.flatten(), [0.278199, -0.291823, 0.173159, 0.0544956])
    modulate_(plain, tensor(0.5), None)
    near(plain.flatten(), [0.05, -0.1, 0.15, 0.2])


def test_draws_lie_in_memory_as_the_gradients_do_and_share_no_number():
    torch.manual_seed(0)
    like = [
        torch.empty(8, 4, 3, 3).to(memory_format=torch.channels_last), torch.empty(16, 8), torch.empty(8, 5).t(),
        torch.empty(6, 1, 1, 1), torch.empty(4, 10)[:, ::2],
    ]  # fmt: skip
    draws = normal_draws(like)
    for wanted, found in zip(like, draws, strict=True):
        assert found.shape == wanted.shape
    assert all(found.stride() == wanted.stride() for wanted, found in zip(like[:4], draws[:4], strict=True))
    numbers = torch.cat([found.flatten() for found in draws])
    assert len(numbers.unique()) == len(numbers) == sum(wanted.numel() for wanted in like)
    assert abs(float(numbers.mean())) < 0.15
    assert float(numbers.std()) == pytest.approx(1.0, abs=0.1)
    assert normal_draws([]) == []


def test_nobody_is_infinitely_far_ahead_of_those_who_know_nothing():
    """Probabilities of exactly 0 are usual in float32 once a network is sure."""
    for scores in ((3.0, 0.0), (0.0, 0.0), (3.0, 0.0, 0.0), (0.0, 0.0, 0.0)):
        found = discrepancy_ratios(dict(enumerate(torch.tensor(scores))))
        assert all(bool(value.isfinite()) for value in found.values())
        assert [float(value) > 1 for value in found.values()] == [score > 0 for score in scores]
        untouched = ogm_coefficients(found, 0.0)
        near(torch.stack(list(untouched.values())), [1.0] * len(scores))
        assert all(bool(value.isfinite()) for value in drop_probabilities(found, 0.5, 0.5).values())
    near(list(discrepancy_ratios(dict.fromkeys(("audio", "visual"), torch.tensor(0.0))).values()), [1.0, 1.0])


def test_three_modalities_are_compared_with_the_mean_of_the_others():
    found = discrepancy_ratios({"audio": tensor(3.0), "visual": tensor(2.0), "depth": tensor(1.0)})
    near(list(found.values()), [2.0, 1.0, 0.4])


# OPM


def test_opm_probabilities_and_rescaling():
    probabilities = drop_probabilities(ratios(), 0.5, 0.5)
    near(probabilities["audio"], 0.640365)
    assert float(probabilities["visual"]) == 0.0
    features = {"audio": tensor([[1, -2], [1, -2]]), "visual": tensor([[0.5, 1], [0.5, 1]])}
    draws = {"audio": tensor([0.9, 0.1]), "visual": tensor([0.0, 0.0])}
    dropped = drop_features(features, probabilities, draws)
    near(dropped["audio"], [[1.47098, -2.94197], [0, 0]])
    near(dropped["visual"], [[0.735491, 1.47098], [0.735491, 1.47098]])
    wide = drop_features({"audio": torch.ones(1, 512).double(), "visual": torch.ones(1, 256).double()}, probabilities,
                         {"audio": tensor([0.9]), "visual": tensor([0.5])})  # fmt: skip
    near(wide["visual"][0, 0], 1.74493)


# Greedy


def test_greedy_speeds():
    place, lead = fastest_branch(tensor([0.04 / 10, 0.02 / 8]), tensor([0.003 / 2, 0.004 / 2]))
    assert place == 1
    assert lead == pytest.approx(0.329059, rel=1e-5)
    place, lead = fastest_branch(tensor([0.007, 0.00625]), tensor([0.0025, 0.005]))
    assert (place, lead) == (1, pytest.approx(0.350248, rel=1e-5))


def test_greedy_running_means_and_gates():
    from mm_balance.models.interaction import Transfer

    transfer = Transfer({"audio": 2, "visual": 2})
    with torch.no_grad():
        transfer.shared.weight.zero_()
        transfer.shared.bias.zero_()
        transfer.own["audio"].weight.zero_()
    averages = {"audio": torch.randn(2, 2), "visual": torch.randn(2, 2)}
    for bias, expected in (((0.3, 0.7), (0.3, 0.7)), ((0.7, 0.3), (0.5, 0.5))):
        with torch.no_grad():
            transfer.own["audio"].bias.copy_(torch.logit(torch.tensor(bias)))
        gates = transfer.gates(averages)
        near(gates["audio"][0], bias)
        near(transfer.mean_audio, expected)
    averages["visual"][0, 0] = float("nan")
    transfer.gates(averages)
    near(transfer.mean_audio, (0.5, 0.5))  # a batch that overflowed leaves no trace
    assert float(transfer.steps) == 2
    averages["visual"][0, 0] = 0.0
    transfer.cut_off = "audio"
    transfer.eval()
    near(transfer.gates(averages)["audio"][1], (0.5, 0.5))


# PMR

PMR_LABELS = torch.tensor([0, 1, 0])
PMR_FEATURES = {"audio": tensor([[1, 0], [0, 2], [1, 1]]), "visual": tensor([[0.5, 0.5], [0.4, 0.8], [1, 0]])}
PMR_OLD = {"audio": tensor([[1, 0], [0, 1]]), "visual": tensor([[0.5, 0], [0, 0.5]])}


def pmr_logits():
    found = {}
    for name, features in PMR_FEATURES.items():
        fresh, counts = class_means(features, PMR_LABELS, 2)
        found[name] = prototype_logits(features, moved_prototypes(PMR_OLD[name], fresh, counts, 0.2))
    return found


def test_pmr_prototypes():
    fresh, counts = class_means(PMR_FEATURES["audio"], PMR_LABELS, 2)
    near(moved_prototypes(PMR_OLD["audio"], fresh, counts, 0.2), [[1, 0.4], [0, 1.8]])
    fresh, counts = class_means(PMR_FEATURES["visual"], PMR_LABELS, 2)
    near(moved_prototypes(PMR_OLD["visual"], fresh, counts, 0.2), [[0.7, 0.2], [0.32, 0.74]])
    fresh, counts = class_means(PMR_FEATURES["audio"][:1], PMR_LABELS[:1], 2)
    near(moved_prototypes(PMR_OLD["audio"], fresh, counts, 0.2)[1], [0, 1])  # no sample of the class: the old one


def test_pmr_loss():
    logits = pmr_logits()
    truth = {name: value.softmax(1).gather(1, PMR_LABELS.unsqueeze(1)).squeeze(1) for name, value in logits.items()}
    near(truth["audio"], [0.840121, 0.843802, 0.663878])
    near(truth["visual"], [0.484866, 0.638953, 0.655755])
    losses = {name: functional.cross_entropy(value, PMR_LABELS) for name, value in logits.items()}
    near(losses["audio"], 0.251234)
    near(losses["visual"], 0.531259)
    near(mean_entropy(logits["audio"]), 0.503737)
    near(mean_entropy(logits["visual"]), 0.663506)
    weaker, stronger = prototype_weights(logits, PMR_LABELS, "clip")
    near(weaker["audio"], 0.0)
    near(weaker["visual"], 0.319306)
    near(weaker["visual"] * losses["visual"], 0.169634)
    near(-0.01 * stronger["audio"] * mean_entropy(logits["audio"]), -0.00160846)
    assert float(stronger["visual"]) == 0.0
    weaker, _ = prototype_weights(logits, PMR_LABELS, "binary")
    assert (float(weaker["audio"]), float(weaker["visual"])) == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["clip", "binary"])
def test_pmr_weights_where_prototypes_are_never_right(kind):
    """Features a thousand apart: distances differ by so much that the softmax is exactly 0."""
    right, wrong = torch.tensor([[0.0, -1000]]), torch.tensor([[-1000.0, 0]])
    for logits, expected in (((right, wrong), (0.0, 1.0)), ((wrong, wrong), (0.0, 0.0))):
        weaker, stronger = prototype_weights(dict(enumerate(logits)), torch.tensor([0]), kind)
        assert [float(value) for value in weaker.values()] == list(expected)
        assert [float(value) for value in stronger.values()] == list(reversed(expected))


def test_pmr_distance_zero_has_a_gradient():
    features = torch.zeros(1, 2, requires_grad=True)
    prototype_logits(features, torch.zeros(1, 2)).sum().backward()
    assert torch.isfinite(features.grad).all()


# AGM

FUSED, ONLY_AUDIO, ONLY_VISUAL = (
    tensor([[2, 0.5, 0], [0.2, 1, 0.6]]),
    tensor([[1.5, 0.2, 0.1], [0.1, 0.9, 0.2]]),
    tensor([[0.3, 0.4, 0], [0.3, 0.1, 0.5]]),
)


def test_agm_responses_and_factors():
    worth = {
        frozenset({"audio"}): ONLY_AUDIO,
        frozenset({"visual"}): ONLY_VISUAL,
        frozenset({"audio", "visual"}): FUSED,
    }
    shares = shapley_shares(("audio", "visual"))
    responses = {name: sum(share * worth[key] for key, share in parts.items()) for name, parts in shares.items()}
    near(responses["audio"], [[1.6, 0.15, 0.05], [0, 0.9, 0.15]])
    near(responses["visual"], [[0.4, 0.35, -0.05], [0.2, 0.1, 0.45]])
    labels = torch.tensor([0, 1])
    losses = torch.stack([functional.cross_entropy(value, labels) for value in responses.values()])
    near(losses, [0.500036, 1.10544])
    factors = agm_factors(losses, tensor([0.9, 1.05]), 1.0, 10.0)
    near(factors, [0.511628, 1.37006])
    multipliers = {key: sum(shares[name][key] * factors[place] for place, name in enumerate(shares)) for key in worth}
    near(multipliers[frozenset({"audio", "visual"})], 0.940844)
    near(multipliers[frozenset({"audio"})], -0.429216)
    near(multipliers[frozenset({"visual"})], 0.429216)
    near(agm_factors(losses, tensor([0.0, 0.0]), 1.0, 10.0), [0.435181, 1.57483])


def test_agm_gradients_are_those_of_scaled_responses():
    """The surrogate against hooks on the responses, in float64."""
    leaves = [value.clone().requires_grad_() for value in (FUSED, ONLY_AUDIO, ONLY_VISUAL)]
    fused, audio, visual = leaves
    response = {"audio": (fused - visual + audio) / 2, "visual": (fused - audio + visual) / 2}
    factors = {"audio": 0.511628, "visual": 1.37006}
    for name, value in response.items():
        value.register_hook(lambda gradient, name=name: gradient * factors[name])
    functional.cross_entropy(response["audio"] + response["visual"], torch.tensor([0, 1])).backward()
    towards = (FUSED.softmax(1) - functional.one_hot(torch.tensor([0, 1]), 3)) / 2
    near(fused.grad, (0.940844 * towards).tolist())
    near(audio.grad, (-0.429216 * towards).tolist())
    near(visual.grad, (0.429216 * towards).tolist())


def test_agm_shares_of_three_modalities():
    shares = shapley_shares(("audio", "visual", "text"))["text"]
    expected = {("text",): 1 / 3, ("audio", "visual", "text"): 1 / 3, ("audio", "visual"): -1 / 3, ("audio", "text"): 1 / 6,
                ("audio",): -1 / 6, ("visual", "text"): 1 / 6, ("visual",): -1 / 6}  # fmt: skip
    assert {frozenset(key): pytest.approx(value) for key, value in expected.items()} == shares


# MLA

GRADIENT = tensor([[1, 2, 3], [-1, 0, 1]])


def test_mla_projections():
    mean = tensor([[1, 0, 2], [0, 1, 2]]).mean(0)
    plain = next_projection(torch.eye(3).double(), mean, 0.1, "rls")
    near(plain @ mean, [0.0108696, 0.0108696, 0.0434783])
    near(GRADIENT @ plain.T, [[0.184783, 1.18478, -0.260870], [-1.16304, -0.163043, 0.347826]])
    normed = next_projection(torch.eye(3).double(), mean, 0.1, "rls_norm")
    near(GRADIENT @ normed.T, [[0.130646, 0.837669, -0.184441], [-0.822299, -0.115276, 0.245921]])
    following = next_projection(normed, tensor([0, 1, 0]), 0.1**1.5, "rls_norm")
    near(GRADIENT @ following.T, [[0.249465, 0.0534348, -0.000804934], [-1.17043, -0.00735341, 0.311621]])
    official = next_projection(torch.eye(3).double(), mean, 0.1, "official")
    near(GRADIENT @ official.T, [[-1.82642, -1.35449, -1.25254], [-0.563860, -0.0919337, 0.440534]])


@pytest.mark.parametrize(("gate", "expected"), [("entropy", [0.601790, 0.325482]), ("batch", [0.449599, 0.449599])])
def test_mla_gates(gate, expected):
    head = SharedHead({"audio": 3, "visual": 3}, 3, gate)
    audio, visual = tensor([[2, 0, 0], [0.2, 0.1, 0]]), tensor([[0.5, 0.3, 0], [0, 3, 0]])
    near(head._weights(torch.stack([audio, visual]))[0], expected)
    if gate == "entropy":
        with torch.no_grad():
            head.output.weight.copy_(torch.eye(3))
            head.output.bias.zero_()
        fused, _ = head.double()({"audio": audio, "visual": visual})
        near(fused, [[1.40268, 0.119463, 0], [0.0650963, 2.05610, 0]])
        near(fused.softmax(1), [[0.656565, 0.181962, 0.161473], [0.107993, 0.790821, 0.101187]])


# Diagnosing & Re-learning


def test_relearning_strength():
    def purity(clusters, labels):
        return cluster_purity(torch.tensor(clusters).numpy(), torch.tensor(labels).numpy())

    train, held_out = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]
    audio = relearn_weight(purity(train, train), purity([0, 0, 1, 1, 1, 1], held_out), 3.0)
    visual = relearn_weight(purity([0, 0, 0, 1, 1, 1, 1, 0], train), purity([0, 1, 0, 1, 0, 1], held_out), 3.0)
    assert audio == pytest.approx(0.462117, rel=1e-5)
    assert visual == pytest.approx(0.244919, rel=1e-5)
    near(tensor(0.8).lerp(tensor(-0.4), audio), 0.245459)
    near(tensor(0.8).lerp(tensor(-0.4), visual), 0.506098)


# MMPareto


@pytest.mark.parametrize(
    ("joint", "own", "weight", "expected"),
    [([1, 2], [3, 1], None, [6, 4.5]), ([1, 0], [-1, 2], 0.75, [2.12132, 2.12132])],
)
def test_mmpareto_one_tensor(joint, own, weight, expected):
    near(pareto_gradients([tensor(joint)], [tensor(own)], 1.5, scope="tensor")[0], expected)
    if weight is not None:
        near(min_norm_weight(tensor(joint), tensor(own)), weight)


def test_mmpareto_two_tensors():
    joint, own = [tensor([1, 0.5]), tensor([0.2])], [tensor([-2, 1]), tensor([-0.4])]
    per_tensor = pareto_gradients(joint, own, 1.5, scope="tensor")
    near(torch.cat(per_tensor), [0.427900, 2.67009, 0.300000])
    whole = pareto_gradients(joint, own, 1.5, scope="encoder")
    near(torch.cat(whole), [0.430309, 2.68513, 0.0860619])


def test_min_norm_weights_against_a_search():
    torch.manual_seed(0)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64).unsqueeze(1)
    for _ in range(20):
        joint, own = torch.randn(2, 5, dtype=torch.float64)
        best = grid[(grid * joint + (1 - grid) * own).norm(dim=1).argmin()]
        found = min_norm_weight(joint, own)
        assert float(found) == pytest.approx(float(best), abs=1.1e-3)


# MMCosine


def test_mmcosine_logits():
    head = CosineHead({"audio": 2, "visual": 2}, 2, scale=10.0).double()
    with torch.no_grad():
        head.own["audio"].weight.copy_(tensor([[1, 2], [0, -1]]))
        head.own["visual"].weight.copy_(tensor([[0.5, 0.5], [2, 0]]))
    fused, unimodal = head({"audio": tensor([[3, 4]]), "visual": tensor([[1, -1]])})
    near(unimodal["audio"][0], [9.83870, -8])
    near(unimodal["visual"][0], [0, 7.07107])
    near(fused[0], [9.83870, -0.928932])
    near(functional.cross_entropy(fused, torch.tensor([0])), 2.10704e-05, rel=1e-2)
    near(functional.cross_entropy(fused, torch.tensor([1])), 10.7677)


# UMT, UME


def test_umt_distance():
    student, teacher = tensor([[1, 2], [0, 1]]), tensor([[1.5, 1], [0, 2]])
    near(feature_distance(student, teacher, "mean"), 0.5625)
    near(feature_distance(student, teacher, "sum"), 1.125)


@pytest.mark.parametrize(
    ("mean_of", "expected"),
    [
        ("probabilities", [[0.613723, 0.248923, 0.137353], [0.438591, 0.333074, 0.228335]]),
        ("logits", [[0.648654, 0.238627, 0.112719], None]),
    ],
)
def test_ensemble_means(mean_of, expected):
    head = LateFusion({"audio": 3, "visual": 3}, 3, mean_of)
    with torch.no_grad():
        for layer in head.own.values():
            layer.weight.copy_(torch.eye(3))
            layer.bias.zero_()
    fused, _ = head(
        {"audio": torch.tensor([[2.0, 0, -1], [0, 1, 0]]), "visual": torch.tensor([[0.5, 0.5, 0], [1, -1, 0]])}
    )
    for row, wanted in zip(fused.softmax(1), expected, strict=True):
        if wanted is not None:
            near(row, wanted)


# Sample-level valuation


@pytest.mark.parametrize(
    ("right", "values"),
    [
        ((0, 0, 0), (0, 0)), ((0, 0, 1), (-0.5, 0.5)), ((0, 1, 1), (0, 0)), ((1, 0, 0), (1, 1)), ((1, 0, 1), (0.5, 1.5)),
        ((1, 1, 0), (1.5, 0.5)), ((1, 1, 1), (1, 1)),
    ],
)  # fmt: skip
def test_values_of_a_sample(right, values):
    every, audio, visual = (torch.tensor([bool(value)]) for value in right)
    correct = {frozenset({"audio"}): audio, frozenset({"visual"}): visual, frozenset({"audio", "visual"}): every}
    found = shapley_of_samples(correct, ("audio", "visual"))
    assert (float(found["audio"]), float(found["visual"])) == values


def test_copies_of_samples():
    assert copies(torch.tensor([1.0, 0.5, 0.0, -0.5, 1.5])).tolist() == [1, 2, 2, 3, 3, 3]
    assert modality_share(1.1, 0.5, 1.0) == pytest.approx(0.4)


# Focal loss


@pytest.mark.parametrize(
    ("label", "expected"), [(0, (0.241311, 0.0517379, 0.0110928)), (1, (1.74131, 1.43608, 1.18435))]
)
def test_focal_losses(label, expected):
    logits = torch.tensor([[2, 0.5, -1.0]])
    for focus, value in enumerate(expected):
        near(focal_losses(logits, torch.tensor([label]), focus)[0], value)


@pytest.mark.parametrize("focus", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("detach", [False, True])
def test_focal_gradients_of_samples_that_are_certain(focus, detach):
    """p_y = 1 and p_y = 0 exactly: nothing to learn, and plain cross-entropy."""
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    values = focal_losses(logits, torch.tensor([0, 0]), focus, detach=detach)
    values.sum().backward()
    near(values.detach(), [0.0, 200.0])
    near(logits.grad, [[0, 0, 0], [-1, 1, 0]])


# Measures


def test_shapley_values_of_the_modalities():
    worth = {
        frozenset(): 0.20,
        frozenset({"audio"}): 0.55,
        frozenset({"visual"}): 0.35,
        frozenset({"audio", "visual"}): 0.65,
    }
    values = shapley_values(worth)
    assert values == {"audio": pytest.approx(0.325), "visual": pytest.approx(0.125)}
    with pytest.raises(ValueError, match="no value for the coalition"):
        shapley_values({frozenset({"audio", "visual"}): 1.0})


# LFM


def test_lfm_schedule():
    expected = {0: 0.204624, 1: 0.208099, 10: 0.247759, 50: 0.436681, 100: 0.539155, 150: 0.821314, 199: 0.915989}
    for epoch, value in expected.items():
        assert classification_share(epoch) == pytest.approx(value, rel=1e-5)
    assert classification_share(1000.0) in (0.0, 1.0)


LATE = {"audio": tensor([[2, 0, -1], [0, 1, 0]]), "visual": tensor([[0.5, 0.5, 0], [1, -1, 0]])}


def test_lfm_loss():
    fused = functional.cross_entropy((LATE["audio"] + LATE["visual"]) / 2, torch.tensor([0, 1]))
    near(fused, 0.863616)
    aligned = alignment(*LATE.values(), "reversed")
    near(aligned, 0.165051)
    near(alignment(*LATE.values(), "true"), 0.140087)
    for epoch, total in ((0, 0.615988), (10, 0.676253)):
        share = classification_share(epoch)
        near(2 * (share * fused + (1 - share) * aligned), total)


@pytest.mark.parametrize(("divergence", "expected"), [("true", math.log(2)), ("reversed", 100 - math.log(2))])
def test_lfm_of_predictions_that_are_certain(divergence, expected):
    """The third class has probability 0 for both. JS of opposite certainties is log 2; KL(m || p) is (0 + 200) / 2 - log 2."""
    audio = torch.tensor([[200.0, 0, -200]], requires_grad=True)
    visual = torch.tensor([[0.0, 200, -200]], requires_grad=True)
    value = alignment(audio, visual, divergence)
    near(value.detach(), expected)
    value.backward()
    assert bool(audio.grad.isfinite().all())
    assert bool(visual.grad.isfinite().all())


# ReconBoost


def test_reconboost_loss_and_gradient():
    own = tensor([[1, 0, -1], [0.5, 0.5, 0]]).requires_grad_()
    others, labels = tensor([[2, 0, 0], [0, 1, 0]]), torch.tensor([0, 2])
    values = boosting_losses(own, others, labels, 5.0, 1.0, "true_class")
    near(values, [0.572417, 2.32703])
    values.mean().backward()
    near(own.grad, [[-0.235057, 0.171841, 0.0632167], [0.306158, 0.306158, -0.612316]])
    near(boosting_losses(own, others, labels, 5.0, 1.0, "full"), [1.31090, 6.22611])


# CML


def test_cml_hinge():
    more, less = tensor([0.6, 0.9, 0.5]), tensor([0.8, 0.7, 0.55])
    more_right, less_right = torch.tensor([True, True, False]), torch.tensor([False, True, True])
    hinge = (less - more).relu()
    near((hinge * counted(more_right, less_right, "all")).sum(), 0.25)
    near((hinge * counted(more_right, less_right, "cpm")).sum(), 0.2)


def test_cml_confidences():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    rise = confidence_rise(logits.flip(0), logits, torch.tensor([0, 0]), "all")
    near(rise, [float(torch.sigmoid(torch.tensor(2.0))) - 0.5, 0.0])


# AMCo


def test_amco_schedule_and_dependence():
    for epoch, share in ((0, 0.0), (1, 0.5), (2, 0.866025), (3, 1.0), (9, 1.0)):
        assert mask_share(epoch / 10, 0.3) == pytest.approx(share, rel=1e-5)
    shares = dependence({"audio": torch.tensor([[2.0, 0, -1]]), "visual": torch.tensor([[0.5, 0.5, 0]])})
    near(list(shares.values()), [0.670804, 0.329196])
    mask = random_mask(10, 0.55, torch.device("cpu"))
    assert sorted(mask.tolist()) == [0.0] * 5 + [1.0] * 5


# MBSD


def test_mbsd_losses():
    audio, visual = tensor([[2, 0, -1], [0, 0.2, 0.1]]), tensor([[0.5, 1, 0], [0.3, 0, 0]])
    labels = torch.tensor([0, 2])
    found = pair_distillation(audio, visual, labels, "classes")
    near(found.mean(), 0.380091 + 0.166322)
    assert float(found[1]) == 0.0
    near(pair_distillation(audio, visual, labels, "scalars").mean(), 0.380091 - 0.166824)


def test_mbsd_where_one_modality_is_certain_and_the_other_certainly_wrong():
    """Weight 1; RS = (200^2 + 200^2) / 2; KL = 200; in scalars 0 (log 0 - 1) = 0."""
    for divergence, expected in (("classes", 200.0), ("scalars", 0.0)):
        audio = torch.tensor([[200.0, 0]], requires_grad=True)
        visual = torch.tensor([[0.0, 200]], requires_grad=True)
        (value,) = pair_distillation(audio, visual, torch.tensor([0]), divergence)
        near(value.detach(), 40000 + expected)
        value.backward()
        assert bool(audio.grad.isfinite().all())
        assert bool(visual.grad.isfinite().all())
