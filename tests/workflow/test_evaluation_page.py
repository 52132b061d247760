"""Confusions, calibration and gaps per class: by hand, and against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from mm_balance import names
from mm_balance.tracking.lookup import open_run
from mm_balance.types import SplitPredictions
from mm_balance.workflow.evaluation_page import (
    class_gaps,
    class_table,
    confusion_counts,
    publish_evaluation,
    reliability,
)

CLASSES = ["cat", "dog", "owl"]


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def random_predictions(modalities=("audio", "visual"), samples=200, classes=3):
    generator = torch.Generator().manual_seed(0)
    logits = {name: 2 * torch.randn(samples, classes, generator=generator) for name in modalities}
    labels = torch.randint(classes, (samples,), generator=generator)
    return SplitPredictions(labels, sum(logits.values()), logits)


def test_confusions_are_those_of_scikit_learn_and_keep_absent_classes():
    labels = torch.tensor([0, 0, 2, 2])
    logits = logits_of([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1])
    assert confusion_counts(logits, labels).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    found = random_predictions()
    expected = confusion_matrix(found.labels, found.fused.argmax(1), labels=range(3))
    np.testing.assert_array_equal(confusion_counts(found.fused, found.labels), expected)


def test_calibration_error_by_hand():
    """Two predictions at 0.9, one right; one at 0.6, wrong: (2 * 0.4 + 1 * 0.6) / 3."""
    found = reliability(logits_of([0.9, 0.1], [0.9, 0.1], [0.4, 0.6]), torch.tensor([0, 1, 0]), bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 2, 0]
    assert found.error == pytest.approx((2 * 0.4 + 0.6) / 3)
    certain = reliability(logits_of([1.0, 0.0]), torch.tensor([0]))
    assert (certain.counts[-1], certain.error) == (1, 0.0)


def test_bins_are_those_of_scikit_learn():
    predictions = random_predictions(samples=500)
    confidence, predicted = predictions.fused.double().softmax(1).max(1)
    accuracy, mean = calibration_curve(predicted == predictions.labels, confidence, n_bins=15)
    found = reliability(predictions.fused, predictions.labels)
    kept = found.counts > 0
    np.testing.assert_allclose(found.accuracy[kept], accuracy)
    np.testing.assert_allclose(found.confidence[kept], mean)


def test_gaps_per_class_by_hand():
    gaps, labels = torch.tensor([0.1, 0.3, -0.5]), torch.tensor([0, 0, 2])
    means, widths = class_gaps(gaps, labels, 3)
    assert means[[0, 2]] == pytest.approx([0.2, -0.5])
    assert np.isnan(means[1])
    assert widths[0] == pytest.approx(1.96 * 0.1414214 / 2**0.5, abs=1e-6)
    assert np.isnan(widths[1:]).all(), "one sample has no interval"


def test_the_table_names_the_class_that_another_is_taken_for():
    labels = torch.tensor([0, 0, 2])
    fused = logits_of([0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8])
    sure = logits_of([0.6, 0.2, 0.2], [0.6, 0.2, 0.2], [0.2, 0.2, 0.6])
    first, last = class_table(SplitPredictions(labels, fused, {"audio": sure, "visual": fused}), CLASSES)
    assert (first["class"], first["samples"], first["accuracy_fused"], first["accuracy_audio"]) == ("cat", 2, 0.5, 1.0)
    assert (first["taken_for"], first["taken_for_samples"]) == ("dog", 1)
    assert first["gap_mean"] == pytest.approx(((0.6 - 0.1) + (0.6 - 0.8)) / 2)
    assert (last["class"], last["taken_for"]) == ("owl", "")


@pytest.mark.parametrize("modalities", [("audio",), ("audio", "visual"), ("audio", "visual", "text")])
def test_everything_is_logged_for_any_number_of_modalities(store, modalities):
    run = open_run("evaluation")
    errors = publish_evaluation(run, random_predictions(modalities), CLASSES, caption="test split, seed 0")
    assert list(errors) == ["fused", *modalities]
    stems = [
        names.CONFUSION_FIGURE,
        names.RELIABILITY_FIGURE,
        *([names.CLASS_GAP_FIGURE] if len(modalities) > 1 else []),
    ]
    pictures = {f"{stem.removesuffix('.png')}{suffix}" for stem in stems for suffix in (".png", ".pdf")}
    assert set(run.artifact_names(names.EVALUATION_FOLDER)) == {
        *pictures, f"{names.CLASS_TABLE}.csv", f"{names.CLASS_TABLE}.json"
    }  # fmt: skip
