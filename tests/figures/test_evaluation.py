"""Figures of an evaluation."""

import numpy as np
import pytest

from mm_balance.figures import Reliability, confusion_matrices, gap_per_class, reliability_diagram, render

COUNTS = np.array([[8, 2], [0, 5]])


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_confusions_have_a_panel_per_prediction_with_its_accuracy_and_numbers():
    figure = confusion_matrices({"fused": COUNTS, "audio": COUNTS.T}, ["cat", "dog"], title="t", caption="test, seed 0")
    first, second, _ = figure.axes
    assert first.get_title(loc="left") == "fused: 86.7 % correct"
    assert {text.get_text() for text in first.texts} == {"8", "2", "5"}
    np.testing.assert_allclose(first.images[0].get_array(), [[0.8, 0.2], [0.0, 1.0]])
    assert second.get_title(loc="left").startswith("audio")
    assert "test, seed 0" in texts(figure)


def test_many_classes_are_drawn_without_numbers_and_an_absent_class_is_empty():
    counts = np.eye(50, dtype=int)
    counts[3, 3] = 0
    figure = confusion_matrices({"fused": counts}, [f"class {number}" for number in range(50)], title="t")
    assert not figure.axes[0].texts
    assert render(figure)[".png"].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        confusion_matrices({"fused": counts}, ["cat", "dog"], title="t")


def test_reliability_names_the_error_and_skips_empty_bins():
    found = Reliability(np.array([np.nan, 0.75]), np.array([np.nan, 0.5]), np.array([0, 4]))
    assert found.error == pytest.approx(0.25)
    figure = reliability_diagram({"fused": found, "audio": found}, caption="test split")
    assert figure.get_suptitle() == "Expected calibration error of the fused prediction: 25.0 %"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "calibrated",
        "fused: 25.0 %",
        "audio: 25.0 %",
    ]
    assert list(figure.axes[0].get_lines()[1].get_xdata()) == [0.75]
    with pytest.raises(ValueError, match="at least one prediction"):
        reliability_diagram({})


def test_classes_are_ordered_by_gap_and_those_without_samples_left_out():
    figure = gap_per_class(
        np.array([0.2, np.nan, -0.1]), np.array([0.05, np.nan, np.nan]), ["cat", "dog", "owl"], leading="audio", other="visual"
    )  # fmt: skip
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["owl", "cat"]
    assert [bar.get_width() for bar in axes.patches] == [-0.1, 0.2]
    assert figure.get_suptitle() == "Mean gap per class: from -0.10 (owl) to +0.20 (cat)"
    with pytest.raises(ValueError, match="at least one of them finite"):
        gap_per_class(np.array([np.nan]), np.array([np.nan]), ["cat"], leading="audio", other="visual")


def test_vector_files_are_the_same_each_time():
    figures = [reliability_diagram({"fused": Reliability(np.ones(1), np.ones(1), np.ones(1, int))}) for _ in range(2)]
    first, second = (render(figure) for figure in figures)
    assert set(first) == {".png", ".pdf"}
    assert first == second
    assert first[".pdf"].startswith(b"%PDF")
