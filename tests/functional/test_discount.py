"""Doubts: running means, leads and posteriors, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from mm_balance.functional.discount import UNSEEN, log_lead, loss_doubts, modality_doubts, running_mean


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


def test_a_doubt_is_the_posterior_of_the_own_loss_where_the_modality_lags_and_exceeds_the_margin():
    probabilities = planted()
    losses = -probabilities.log()
    excess = losses - losses.quantile(0.5, dim=1, keepdim=True)
    own, lead = loss_doubts(probabilities), log_lead(probabilities)
    for margin in (0.0, 0.5, 4.6):
        doubts = modality_doubts(probabilities, margin=margin)
        assert torch.equal(doubts, torch.where((lead < 0) & (excess >= margin), own, 0.0))
    assert 0 < (doubts > 0).sum() < (own > 0).sum()


def test_what_is_hard_for_all_modalities_is_not_doubted():
    """Also a wrong label: the modality that gives it a little more is never doubted, the other only if it lags further than usual."""
    probabilities = planted()
    probabilities[:, 100:110] = 0.004
    probabilities[1, 100:110] *= 0.9
    assert (loss_doubts(probabilities)[:, 100:110] > 0.9).all()
    assert (modality_doubts(probabilities)[0, 100:110] == 0).all()


def test_the_best_of_three_modalities_is_never_doubted():
    probabilities = torch.cat([planted(), planted()[:1].flip(1)])
    doubts = modality_doubts(probabilities)
    assert (doubts[2, -30:] > 0.95).all()
    assert (doubts.amin(dim=0) == 0).all()


def test_the_mixture_finds_something_in_clean_data_and_the_margin_nothing():
    generator = torch.Generator().manual_seed(4)
    clean = 0.95 - 0.1 * torch.rand(2, 500, generator=generator, dtype=torch.float64) ** 3
    assert modality_doubts(clean).mean() > 0.05
    assert (modality_doubts(clean, margin=1.0) == 0).all()


def test_unseen_samples_and_tiny_sets_are_not_doubted():
    probabilities = planted()
    probabilities[:, 5] = UNSEEN
    doubts = modality_doubts(probabilities)
    assert (doubts[:, 5] == 0).all()
    assert doubts[0, 4] > 0.95
    assert (modality_doubts(planted()[:, :8]) == 0).all()


def losses_with_broken(generator_seed=5, low=(0.4, 0.1), high=(3.0, 0.5), samples=(270, 30)):
    """Probabilities whose losses have two normal components, low ones first; nothing below 0."""
    generator = torch.Generator().manual_seed(generator_seed)
    parts = [
        mean + std * torch.randn(count, generator=generator, dtype=torch.float64)
        for (mean, std), count in zip((low, high), samples, strict=True)
    ]
    return torch.cat(parts).clamp_min(0).neg().exp()


@pytest.mark.parametrize(
    ("low", "high", "samples"),
    [
        ((0.4, 0.1), (3.0, 0.5), (270, 30)),
        ((0.1, 0.002), (3.0, 0.5), (270, 30)),
        ((1.5, 0.7), (1.56, 0.03), (400, 400)),
    ],
    ids=["apart", "a narrow peak", "a wide low component with the larger second moment"],
)
def test_doubts_of_losses_are_the_posterior_of_two_gaussians_on_scaled_losses(low, high, samples):
    probabilities = losses_with_broken(low=low, high=high, samples=samples)
    losses = np.sort(-np.log(probabilities.numpy()))
    scaled = ((losses - losses.min()) / (losses.max() - losses.min()))[:, None]
    fitted = GaussianMixture(
        2, reg_covar=5e-4, tol=1e-8, max_iter=1000, n_init=20, init_params="random", random_state=0
    )
    fitted.fit(scaled)
    upper = fitted.means_[:, 0].argmax()
    posterior = fitted.predict_proba(scaled)[:, upper] * (scaled[:, 0] > fitted.means_[1 - upper, 0])
    doubts = loss_doubts(probabilities.unsqueeze(0))[0]
    assert doubts.dtype == torch.float32
    in_order = doubts[probabilities.argsort(descending=True)].numpy()
    np.testing.assert_allclose(in_order, np.maximum.accumulate(posterior), atol=1e-2)


def test_samples_with_planted_losses_are_doubted_and_no_others():
    doubts = loss_doubts(losses_with_broken().unsqueeze(0))[0]
    assert (doubts[270:] > 0.9).all()
    assert (doubts[:270] < 0.1).all()


@pytest.mark.parametrize(
    ("low", "high"),
    [((1.0, 0.03), (1.3, 0.5)), ((1.0, 0.5), (2.0, 0.02)), ((0.4, 0.1), (3.0, 0.5))],
    ids=["wide high component", "wide low component", "apart"],
)
def test_a_doubt_never_falls_as_the_loss_grows_and_the_smallest_losses_have_none(low, high):
    probabilities = losses_with_broken(low=low, high=high, samples=(400, 400))
    doubts = loss_doubts(probabilities.unsqueeze(0))[0][probabilities.argsort(descending=True)]
    assert (doubts.diff() >= 0).all()
    assert (doubts[:150] == 0).all()
    assert doubts[-1] > 0.5


def test_each_modality_is_judged_by_its_own_losses_alone_whatever_their_scale():
    one, two = losses_with_broken(5), losses_with_broken(6).flip(0)
    both = loss_doubts(torch.stack([one, two, 0.5 * one**2]))
    torch.testing.assert_close(both[:1], loss_doubts(one.unsqueeze(0)))
    torch.testing.assert_close(both[1:2], loss_doubts(two.unsqueeze(0)))
    torch.testing.assert_close(both[2], both[0], atol=1e-4, rtol=1e-3)


def test_samples_without_losses_and_losses_without_a_mixture_are_not_doubted():
    probabilities = losses_with_broken()
    probabilities[-1] = UNSEEN
    rows = torch.stack([probabilities, torch.full_like(probabilities, 0.5), torch.full_like(probabilities, UNSEEN)])
    doubts = loss_doubts(rows)
    assert doubts[0, -1] == 0
    assert doubts[0, -2] > 0.9
    assert (doubts[1:] == 0).all()
    assert (loss_doubts(rows[:, :8]) == 0).all()
    assert loss_doubts(torch.tensor([[0.9, 0.8] * 20 + [0.0]])).isfinite().all(), "a probability of 0 has a finite loss"
