"""Refits and how well they find planted corruption, on numbers worked out by hand."""

from dataclasses import replace

import pytest
import torch

from mm_balance.engine.predictions import truth_metrics
from mm_balance.functional.gap_fits import fit_gaps_from_probabilities, gap_fit_metrics

AUDIO = torch.tensor([0.9, 0.8, 0.1, 0.9, 0.7, 0.2, 0.9, 0.8, 0.9, 0.6], dtype=torch.float64)
VISUAL = torch.tensor([0.8, 0.2, 0.9, 0.9, 0.7, 0.6, 0.1, 0.7, 0.9, 0.5], dtype=torch.float64)
FUSED = torch.tensor([0.9, 0.6, 0.6, 0.9, 0.7, 0.5, 0.5, 0.8, 0.9, 0.4], dtype=torch.float64)
CORRUPTED = ["", "visual", "audio", "", "", "audio", "visual", "", "", ""]


def make():
    labels = torch.zeros(10, dtype=torch.int64)
    return fit_gaps_from_probabilities({"audio": AUDIO, "visual": VISUAL}, FUSED, labels, 3, "two", samples_digest="")


def test_gaps_and_their_statistics():
    refit = make()
    gaps = [0.1, 0.6, -0.8, 0.0, 0.0, -0.4, 0.8, 0.1, 0.0, 0.1]
    assert refit.gaps.tolist() == pytest.approx(gaps)
    metrics = gap_fit_metrics(refit)
    assert metrics["gap/mean"] == pytest.approx(0.05)
    assert metrics["gap/mean_abs"] == pytest.approx(0.29)
    assert metrics["gmm/balanced_weight"] + metrics["gmm/imbalanced_weight"] == pytest.approx(1.0)
    assert metrics["gap/fraction_imbalanced"] == pytest.approx(
        (refit.posterior_imbalanced > 0.5).double().mean().item()
    )


def test_truth_metrics_by_hand():
    """abs(gap): all four corrupted lie above all six clean: 1. Sign: both audio ones lag most: 1.

    -log p of the fused: corrupted .6 .6 .5 .5, clean .9 .9 .7 .8 .9 .4: of 24 pairs all are in order but the four with
    the clean .4, so 20/24.
    """
    found = truth_metrics(make(), CORRUPTED)
    assert found["truth/auc_gap_abs"] == 1.0
    assert found["truth/auc_sign_audio"] == 1.0
    assert found["truth/auc_sign_visual"] == 1.0
    assert found["truth/auc_loss"] == pytest.approx(20 / 24)


def test_doubts_are_scored_for_the_samples_corrupted_in_that_modality():
    """Two sounds of the ten are broken (0.9 and 0.3 doubted); of the clean samples one is doubted by 0.6."""
    corrupted = ["audio", "audio", "visual", "label"] + [""] * 6
    doubts = {"audio": torch.tensor([0.9, 0.3, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0])}
    found = truth_metrics(replace(make(), doubts=doubts), corrupted)
    assert found["truth/doubt_corrupted_audio"] == pytest.approx(0.6)
    assert found["truth/doubt_clean_audio"] == pytest.approx(0.1)
    # Of the 2 * 8 pairs, one is the wrong way round: 0.3 against 0.6.
    assert found["truth/auc_doubt_audio"] == pytest.approx(15 / 16)
    assert not any(name.endswith("doubt_visual") for name in found)


def test_no_truth_no_metrics():
    assert truth_metrics(make(), [""] * 10) == {}


def test_a_probability_of_zero_is_no_trouble():
    refit = make()
    refit.fused_probability[2] = 0.0
    assert truth_metrics(refit, CORRUPTED)["truth/auc_loss"] == pytest.approx(21 / 24)
