"""Folds: every sample in one, evenly, class by class."""

import pytest
import torch

from mm_balance.functional.folds import stratified_folds


@pytest.mark.parametrize("folds", [2, 4, 7])
def test_sizes_differ_by_one_at_most_in_total_and_in_each_class(folds):
    labels = torch.tensor([0] * 11 + [1] * 2 + [2] * 17)[torch.randperm(30, generator=torch.Generator().manual_seed(5))]
    assigned = stratified_folds(labels, folds, seed=1)
    for members in (assigned, *(assigned[labels == label] for label in range(3))):
        sizes = members.bincount(minlength=folds)
        assert len(sizes) == folds
        assert int(sizes.max() - sizes.min()) <= 1


def test_the_seed_decides_and_global_generators_do_not():
    labels = torch.arange(60) % 3
    first = stratified_folds(labels, 4, seed=1)
    torch.manual_seed(999)
    state = torch.get_rng_state()
    assert torch.equal(stratified_folds(labels, 4, seed=1), first)
    assert not torch.equal(stratified_folds(labels, 4, seed=2), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("folds", [0, 1, 6])
def test_too_few_or_too_many_are_refused(folds):
    with pytest.raises(ValueError, match=f"5 samples cannot be put into {folds} folds"):
        stratified_folds(torch.zeros(5, dtype=torch.long), folds, seed=0)
