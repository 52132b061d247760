"""Losses that resist corrupted samples."""

import pytest
import torch
from torch.nn import functional

from mm_balance.functional.robust import generalized_cross_entropy


def test_generalized_cross_entropy_by_hand():
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    labels = torch.tensor([0, 1])
    # q = 0.5: (1 - 0.5) / 0.5 and (1 - 0.7071068) / 0.5; q = 1: 1 - p.
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 0.5), torch.tensor([1.0, 0.5857864]))
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 1.0), torch.tensor([0.75, 0.5]))


def test_the_limit_is_cross_entropy():
    logits, labels = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 5
    expected = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(generalized_cross_entropy(logits, labels, 1e-6), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_vanishing_probability_is_finite():
    logits = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    generalized_cross_entropy(logits, torch.tensor([0]), 0.7).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("power", [0.0, -0.5, 1.5])
def test_a_power_out_of_range_is_refused(power):
    with pytest.raises(ValueError, match="power"):
        generalized_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), power)
