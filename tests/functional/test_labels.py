"""Labels of one class and of several: rights, losses, sizes, shares; with one true class per row both forms say the same."""

import math

import pytest
import torch

from mm_balance.functional.labels import (
    class_probabilities,
    class_sizes,
    is_named_right,
    label_names,
    mean_cross_entropy,
    random_share,
    samples_by_class,
    strata,
)
from mm_balance.functional.metrics import accuracy, average_precisions, macro_f1, mean_average_precision
from mm_balance.functional.probe import linear_probe

NUMBERS = torch.tensor([2, 0, 2, 1])
SEVERAL = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 0, 1], [0, 1, 0]]).bool()
LOGITS = torch.tensor([[1.0, 0.0, 3.0], [-1.0, 2.0, -3.0], [2.0, -1.0, 1.0], [0.5, 0.5, 0.0]])


def test_the_named_class_is_right_if_it_is_one_of_the_true_ones():
    assert is_named_right(LOGITS, SEVERAL).tolist() == [True, False, True, False]  # a tie goes to the first class
    assert is_named_right(LOGITS, NUMBERS).tolist() == [True, False, False, False]
    assert accuracy(LOGITS, SEVERAL) == 0.5


def test_with_one_true_class_per_row_accuracy_and_ranking_are_those_of_the_class_numbers():
    draw = torch.Generator().manual_seed(1)
    logits, numbers = torch.randn(200, 5, generator=draw), torch.randint(5, (200,), generator=draw)
    one_hot = torch.eye(5)[numbers].bool()
    assert accuracy(logits, one_hot) == accuracy(logits, numbers)
    assert strata(one_hot).unique().numel() == 5
    assert class_sizes(one_hot, 5).tolist() == class_sizes(numbers, 5).tolist()
    for number, members in samples_by_class(numbers).items():
        assert samples_by_class(one_hot)[number].tolist() == members.tolist()


def test_binary_cross_entropy_by_hand():
    terms = [
        math.log1p(math.exp(-value if true else value))
        for row, labels in zip(LOGITS.tolist(), SEVERAL.tolist(), strict=True)
        for value, true in zip(row, labels, strict=True)
    ]
    assert float(mean_cross_entropy(LOGITS, SEVERAL)) == pytest.approx(sum(terms) / 12, rel=1e-6)
    assert float(mean_cross_entropy(LOGITS, NUMBERS)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(LOGITS, NUMBERS))
    )
    assert class_probabilities(LOGITS, several_classes=True)[0].tolist() == pytest.approx(
        [1 / (1 + math.exp(-value)) for value in (1.0, 0.0, 3.0)]
    )


def test_average_precision_ranks_all_samples_for_each_class():
    # Class 0: logits 2, 1, 0.5, -1 of samples 2, 0, 3, 1; true are 2, 0, 1: precisions 1, 1, 3/4 at the true ones.
    # Class 1: highest is sample 1 (wrong), then sample 3 (right): 1/2. Class 2: samples 0 and 2 come first: 1.
    found = average_precisions(LOGITS, SEVERAL)
    assert found == pytest.approx({0: (1 + 1 + 3 / 4) / 3, 1: 0.5, 2: 1.0})
    assert mean_average_precision(LOGITS, SEVERAL) == pytest.approx(sum(found.values()) / 3)


def test_macro_f1_of_what_is_more_likely_than_not():
    # Above 0 is class 0 in samples 0, 2, 3 (true in 0, 1, 2): F1 = 2 * 2 / (3 + 3); class 1 in 1, 3 (true in 3): 2 * 1 / (2 + 1);
    # class 2 in 0, 2 (true in both): 1.
    assert macro_f1(LOGITS, SEVERAL) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_groups_and_names():
    assert strata(NUMBERS).tolist() == NUMBERS.tolist()
    first, second, third, fourth = strata(SEVERAL).tolist()
    assert first == third
    assert len({first, second, fourth}) == 3
    assert class_sizes(SEVERAL, 3).tolist() == [3, 1, 2]
    assert label_names(SEVERAL, ("cat", "dog", "car")) == ["cat, car", "cat", "cat, car", "dog"]
    assert label_names(NUMBERS, ("cat", "dog", "car")) == ["car", "cat", "car", "dog"]


@pytest.mark.parametrize("fraction", [0.02, 0.3])
def test_a_random_share_has_every_class(fraction):
    draw = torch.Generator().manual_seed(2)
    labels = torch.rand(200, 12, generator=draw) < 0.04
    labels[labels.sum(1) == 0, 0] = True
    labels[:, 11] = False
    labels[77, 11] = True  # a class of a single sample
    kept = random_share(labels, fraction, torch.Generator().manual_seed(3))
    assert labels[kept].any(dim=0).all()
    assert 77 in kept
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert round(fraction * 200) <= len(kept) <= round(fraction * 200) + 12
    again = random_share(labels, fraction, torch.Generator().manual_seed(3))
    assert torch.equal(kept, again)


def test_a_linear_probe_finds_both_of_two_true_classes():
    draw = torch.Generator().manual_seed(4)
    labels = torch.rand(300, 4, generator=draw) < 0.4
    labels[labels.sum(1) == 0, 1] = True
    features = labels.float() + 0.2 * torch.randn(300, 4, generator=draw)
    assert linear_probe(features[:200], labels[:200], features[200:], labels[200:]) > 0.98
    blind = torch.randn(300, 4, generator=draw)
    assert linear_probe(blind[:200], labels[:200], blind[200:], labels[200:]) < 0.7
