"""Doubts: running means, leads and posteriors, against numbers worked out by hand."""

import math

import pytest
import torch

from mm_balance.functional.discount import UNSEEN, log_lead, modality_doubts, running_mean


def test_running_mean():
    running = torch.tensor([[0.5, UNSEEN, 0.2, UNSEEN]])
    latest = torch.tensor([[1.0, 0.4, UNSEEN, UNSEEN]])
    expected = torch.tensor([[0.65, 0.4, 0.2, UNSEEN]])
    torch.testing.assert_close(running_mean(running, latest, 0.7), expected)


def test_lead_of_two_modalities_is_centered_and_mirrored():
    probabilities = torch.tensor([[0.8, 0.4, 0.1, 0.2], [0.2, 0.4, 0.4, 0.1]], dtype=torch.float64)
    ratios = [math.log(4), 0.0, -math.log(4), math.log(2)]
    center = math.log(2) / 2  # between 0 and log 2
    expected = torch.tensor([value - center for value in ratios], dtype=torch.float64)
    lead = log_lead(probabilities)
    torch.testing.assert_close(lead[0], expected)
    torch.testing.assert_close(lead[1], -expected)


def test_lead_of_three_modalities_is_over_the_best_other():
    probabilities = torch.tensor([[0.5, 0.1], [0.2, 0.4], [0.1, 0.8]], dtype=torch.float64)
    raw = torch.tensor(
        [[math.log(2.5), math.log(1 / 8)], [math.log(0.4), math.log(0.5)], [math.log(0.2), math.log(2)]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(log_lead(probabilities), raw - raw.mean(dim=1, keepdim=True))


def test_lead_needs_two_modalities():
    with pytest.raises(ValueError, match="two modalities"):
        log_lead(torch.ones(1, 4))


def planted():
    """300 samples whose modalities agree up to noise; in 30 each, one is broken."""
    generator = torch.Generator().manual_seed(3)
    base = 0.6 + 0.3 * torch.rand(300, generator=generator, dtype=torch.float64)
    noise = 1 - 0.1 * torch.rand(2, 300, generator=generator, dtype=torch.float64)
    probabilities = base * noise
    probabilities[0, :30] *= 0.01
    probabilities[1, 30:60] *= 0.01
    return probabilities


def test_the_broken_modality_is_doubted_and_no_other():
    doubts = modality_doubts(planted())
    assert doubts.dtype == torch.float32
    assert (doubts[0, :30] > 0.95).all()
    assert (doubts[1, 30:60] > 0.95).all()
    assert (doubts[0, 30:] < 0.05).all()
    assert (doubts[1, :30] == 0).all()
    assert (doubts[1, 60:] < 0.05).all()


def test_a_general_lag_of_a_modality_is_no_doubt():
    probabilities = planted()
    weaker = probabilities * torch.tensor([[1.0], [0.3]], dtype=torch.float64)
    torch.testing.assert_close(modality_doubts(weaker), modality_doubts(probabilities))


def test_unseen_samples_and_tiny_sets_are_not_doubted():
    probabilities = planted()
    probabilities[:, 5] = UNSEEN
    doubts = modality_doubts(probabilities)
    assert (doubts[:, 5] == 0).all()
    assert doubts[0, 4] > 0.95
    assert (modality_doubts(planted()[:, :8]) == 0).all()
