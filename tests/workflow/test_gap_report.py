"""What a run's page says about its gaps."""

import doctest
from dataclasses import replace

import pytest
import torch

from mm_balance.config import options, resolve
from mm_balance.engine.recorder import MetricPoint
from mm_balance.functional.gap_fits import fit_gaps_from_probabilities
from mm_balance.functional.mixture import Mixture
from mm_balance.tracking.refits import SOURCES
from mm_balance.workflow import gap_report
from mm_balance.workflow.gap_report import doubts_note, gap_findings, gap_table, gap_warnings, remedies, source_note

NAMES = ["audio", "visual"]


def fit_of(gaps, kind="two"):
    audio = (1 + gaps) / 2
    labels = torch.zeros(len(gaps), dtype=torch.long)
    return fit_gaps_from_probabilities(
        {"audio": audio, "visual": audio - gaps}, audio, labels, 3, kind, samples_digest="x"
    )


def metrics_of(training, validation, training_abs=0.3, validation_abs=0.3):
    return {
        "gap/mean": training,
        "val/gap_mean": validation,
        "gap/mean_abs": training_abs,
        "val/gap_mean_abs": validation_abs,
    }


def normal(mean, std, count):
    return torch.distributions.Normal(mean, std).icdf((torch.arange(count, dtype=torch.float64) + 0.5) / count)


def test_the_example():
    assert doctest.testmod(gap_report).attempted == 2
    assert doctest.testmod(gap_report).failed == 0


@pytest.mark.parametrize(
    ("validation", "modalities", "verdict"),
    [
        (0.31, NAMES, "audio is ahead"),
        (-0.31, NAMES, "visual is ahead"),
        (-0.31, ["audio", "visual", "text"], "another modality than audio is ahead"),
        (0.01, NAMES, "No modality is ahead on average"),
    ],
)
def test_who_is_ahead_is_said_by_validation(validation, modalities, verdict):
    (line,) = gap_findings(metrics_of(-validation, validation), None, modalities, "two")
    assert line == (
        f"- {verdict}: mean gap {validation:+.2f} on validation, {-validation:+.2f} on the training samples (probability of the true "
        "class, not accuracy)."
    )


def test_memorized_training_samples_are_warned_of():
    lines = gap_findings(metrics_of(0.0, 0.2, training_abs=0.1, validation_abs=0.3), None, NAMES, "two")
    assert "training samples are memorized**: their mean abs(gap) is 0.100, on validation 0.300" in lines[1]
    assert len(gap_findings(metrics_of(0.0, 0.2, training_abs=0.2, validation_abs=0.3), None, NAMES, "two")) == 1


def test_cross_fitted_gaps_are_not_called_memorized():
    gaps = torch.cat([normal(0.0, 0.03, 700), normal(0.8, 0.05, 150), normal(-0.8, 0.05, 150)])
    metrics = metrics_of(0.0, 0.2, training_abs=0.1, validation_abs=0.3)
    for source, memorized in (("refit", True), ("running", True), ("cross_fitted", False)):
        fit = replace(fit_of(gaps, "three"), source=source)
        assert ("memorized" in " ".join(gap_findings(metrics, fit, NAMES, "three"))) is memorized


@pytest.mark.parametrize("source", options()["gap_source"].choices)
def test_every_source_of_gaps_is_said_in_words(source):
    assert source_note(source).endswith(f"(`gap_source={source}`).")
    assert source in SOURCES


def test_a_component_away_from_zero_and_a_posterior_that_falls_are_warned_of():
    gaps = torch.cat([normal(0.25, 0.04, 400), normal(0.55, 0.2, 400)]).clamp(-1, 1)
    text = " ".join(gap_findings(metrics_of(0.4, 0.4), fit_of(gaps), NAMES, "two"))
    assert 'The "balanced" component is not balanced**: its mean gap is +0.2' in text
    assert "posterior is not monotone" in text
    assert "mixture=two_absolute" in text


def test_imbalanced_samples_that_are_balanced_in_fact_are_warned_of():
    gaps = torch.cat([normal(0.0, 0.002, 900), normal(0.0, 0.05, 100)])
    text = " ".join(gap_findings(metrics_of(0.0, 0.0), fit_of(gaps, "two_absolute"), NAMES, "two_absolute"))
    assert '"Imbalanced" begins at abs(gap) 0.0' in text
    assert "of 1,000 training samples count as imbalanced" in text


def test_a_good_fit_has_no_warning():
    gaps = torch.cat([normal(0.0, 0.03, 700), normal(0.8, 0.05, 150), normal(-0.8, 0.05, 150)])
    assert len(gap_findings(metrics_of(0.0, 0.0), fit_of(gaps, "three"), NAMES, "three")) == 1


def test_the_table_has_validation_beside_training_and_blanks_where_it_was_not_measured():
    first = {"gap/mean": 0.1, "gap/mean_abs": 0.2, "gmm/density_at_zero": 3.0}
    first |= {"gmm/imbalanced_weight": 0.5, "gmm/imbalanced_mean": 0.4}
    second = first | {"val/gap_mean": 0.31, "val/gap_mean_abs": 0.41, "val/density_at_zero": 1.5}
    rows = gap_table([MetricPoint(6, 0, first), MetricPoint(7, 0, {}), MetricPoint(9, 0, second)])[2:]
    assert rows == [
        "| 6 | +0.100 |  | 0.200 |  | 3.00 |  | 0.500 | +0.400 |",
        "| 9 | +0.100 | +0.310 | 0.200 | 0.410 | 3.00 | 1.50 | 0.500 | +0.400 |",
    ]
    known = {6: {"val/gap_mean": -0.2, "val/gap_mean_abs": 0.3, "gap/mean": 9.0}, 7: {"val/gap_mean": 9.0}}
    heading, _, first = gap_table([MetricPoint(6, 0, first)], known)
    assert first == "| 6 | +0.100 | -0.200 | 0.200 | 0.300 | 3.00 |  | 0.500 | +0.400 |"
    titles = [title.strip() for title in heading.strip("|").split("|")]
    assert len(set(titles)) == len(titles), "each stands alone"
    assert titles[1:3] == ["mean gap, training", "mean gap, validation"]


def test_what_is_warned_of_comes_with_settings_that_avoid_it():
    gaps = torch.cat([normal(0.25, 0.04, 400), normal(0.55, 0.2, 400)]).clamp(-1, 1)
    metrics = metrics_of(0.0, 0.2, training_abs=0.1, validation_abs=0.3)
    found = remedies(gap_warnings(metrics, fit_of(gaps), "two"))
    assert [settings for _, settings in found] == [{"gap_source": "cross_fitted"}, {"mixture": "two_absolute"}]
    for _, settings in found:
        resolve(dict(settings))  # they are parameters with such values
    assert remedies(gap_warnings(metrics_of(0.0, 0.0), None, "two")) == []


@pytest.mark.parametrize("kind", ["two", "two_absolute", "three"])
def test_a_posterior_that_falls_never_recommends_the_mixture_that_was_fitted(kind, monkeypatch):
    gaps = torch.cat([normal(0.0, 0.03, 700), normal(0.8, 0.05, 150), normal(-0.8, 0.05, 150)])
    monkeypatch.setattr(Mixture, "posterior_monotone", lambda self, gaps: False)
    found = gap_warnings(metrics_of(0.0, 0.0), fit_of(gaps, kind), kind)
    (warning,) = [item for item in found if "posterior is not monotone" in item.text]
    assert kind not in warning.settings.values()
    assert f"`mixture={kind}`" not in warning.text


def test_how_much_is_doubted_and_how_rightly():
    gaps = normal(0.0, 0.3, 40)
    doubts = {"audio": torch.tensor([0.9, 0.6, 0.5] + [0.0] * 37), "visual": torch.zeros(40)}
    fit = replace(fit_of(gaps), doubts=doubts)
    assert doubts_note(fit, {}) == (
        "Doubted by more than 0.5, of 40 training samples: audio of 2, visual of 0. Which ones: columns `doubt_audio`, "
        "`doubt_visual` of `refits/epoch_0003/gaps.parquet`."
    )
    truth = {"truth/doubt_corrupted_audio": 0.86, "truth/doubt_clean_audio": 0.03, "truth/doubt_clean_visual": 0.0}
    assert "audio of 2 (mean doubt 0.86 where it was corrupted, 0.03 on clean samples), visual of 0." in doubts_note(
        fit, truth
    )
