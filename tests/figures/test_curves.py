"""The accuracy figure: curves in percent, the change of stage, the difference between the modalities."""

from __future__ import annotations

import numpy as np
import pytest

from mm_balance.figures import save_png, unimodal_accuracy

EPOCHS = [1, 2, 3, 4]
ACCURACIES = {"audio": [0.2, 0.5, 0.6, 0.7], "visual": [0.1, 0.3, 0.5, 0.65]}


def stage_lines(figure) -> list[float]:
    upper = figure.axes[0]
    return [line.get_xdata()[0] for line in upper.get_lines() if line.get_label().startswith("_")]


def test_curves_are_in_percent_with_one_line_per_series():
    figure = unimodal_accuracy(EPOCHS, ACCURACIES, fused=[0.3, 0.6, 0.7, 0.8])
    upper, lower = figure.axes
    labels = [line.get_label() for line in upper.get_lines()]
    assert labels == ["audio alone", "visual alone", "fused"]
    np.testing.assert_allclose(upper.get_lines()[0].get_ydata(), [20, 50, 60, 70])
    np.testing.assert_allclose(lower.get_lines()[0].get_ydata(), [10, 20, 10, 5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


def test_branches_that_see_each_other_are_not_called_modalities_alone():
    figure = unimodal_accuracy(EPOCHS, ACCURACIES, branches=True)
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["audio branch", "visual branch"]
    assert figure.get_suptitle() == "Branches differ by 5.0 points after epoch 4"


def test_change_of_stage_is_marked_and_the_differences_are_named():
    figure = unimodal_accuracy(EPOCHS, ACCURACIES, warmup_epochs=2)
    assert stage_lines(figure) == [2]
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["warm-up", "adaptive"]
    assert figure.get_suptitle() == "Modalities differ by 20.0 points after the warm-up, 5.0 points after epoch 4"


@pytest.mark.parametrize("warmup_epochs", [None, 0, 4])
def test_a_change_of_stage_outside_the_curve_is_not_marked(warmup_epochs):
    figure = unimodal_accuracy(EPOCHS, ACCURACIES, warmup_epochs=warmup_epochs)
    assert stage_lines(figure) == []
    assert figure.get_suptitle() == "Modalities differ by 5.0 points after epoch 4"


def test_difference_of_three_modalities_is_best_minus_worst():
    figure = unimodal_accuracy(EPOCHS, {**ACCURACIES, "text": [0.05, 0.9, 0.5, 0.1]})
    np.testing.assert_allclose(figure.axes[1].get_lines()[0].get_ydata(), [15, 60, 10, 60])


@pytest.mark.parametrize("points", [1, 60])
def test_one_epoch_and_many_are_drawn(points):
    epochs = list(range(1, points + 1))
    values = np.linspace(0.1, 0.9, points)
    figure = unimodal_accuracy(epochs, {"audio": values, "visual": values / 2}, fused=values)
    assert save_png(figure).startswith(b"\x89PNG")


def test_unfit_series_are_named():
    with pytest.raises(ValueError, match="'visual' has 1 values for 4 epochs"):
        unimodal_accuracy(EPOCHS, {**ACCURACIES, "visual": [0.1]})
    with pytest.raises(ValueError, match="at least one epoch"):
        unimodal_accuracy([], {})
