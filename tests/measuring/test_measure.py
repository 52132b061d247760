"""Measuring anybody's predictions: the numbers of our own refits, and one clear error for whatever is wrong."""

import doctest
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import mm_balance as mm
from mm_balance import measuring, names
from mm_balance.explorer.gap_table import gap_table
from mm_balance.functional.gap import modality_gap
from mm_balance.functional.gap_fits import exact_probabilities, fit_gaps, gap_fit_metrics
from mm_balance.functional.mixture import BINS, fit_mixture
from mm_balance.types import SplitPredictions
from tests.helpers.predictions import CLASSES, SAMPLES, multi_label_predictions, predictions


def as_split(logits, labels, fused):
    return SplitPredictions(labels, fused, dict(logits))


def test_the_numbers_are_those_of_our_own_refits():
    logits, labels, fused = predictions()
    ours = fit_gaps(as_split(logits, labels, fused), 0, "two")
    measured = mm.measure(logits, labels, fused=fused)
    assert torch.equal(measured.gaps, ours.gaps)
    assert torch.equal(measured.posterior_imbalanced, ours.posterior_imbalanced)
    assert torch.equal(measured.fused_probability, ours.fused_probability)
    assert all(torch.equal(measured.probabilities[name], ours.probabilities[name]) for name in logits)
    assert measured.mixture == ours.mixture
    assert measured.metrics() == gap_fit_metrics(ours)
    assert set(measured.metrics()) == set(names.REFIT_METRICS)
    assert measured.balanced_mean == ours.mixture.balanced.mean
    pd.testing.assert_frame_equal(measured.table(), gap_table(ours, [str(place) for place in range(SAMPLES)], None))


@pytest.mark.parametrize("kind", ["two_absolute", "three"])
def test_other_mixtures(kind):
    logits, labels, _ = predictions()
    measured = mm.measure(logits, labels, kind=kind)
    assert measured.mixture == fit_mixture(measured.gaps, kind=kind)


def test_arrays_and_tensors_of_any_kind_give_the_same():
    logits, labels, _ = predictions()
    expected = mm.measure(logits, labels)
    arrays = {name: values.numpy() for name, values in logits.items()}
    for given in (arrays, {name: np.asfortranarray(values) for name, values in arrays.items()}):
        for truth in (labels.numpy().astype(np.uint8), labels.to(torch.int32), labels.tolist()):
            assert torch.equal(mm.measure(given, truth).gaps, expected.gaps)
    for values in arrays.values():
        values.setflags(write=False)
    assert torch.equal(mm.measure(arrays, labels).gaps, expected.gaps)
    doubled = mm.measure({name: values.double() for name, values in logits.items()}, labels)
    assert torch.equal(doubled.gaps, expected.gaps)
    half = mm.measure({name: values.bfloat16() for name, values in logits.items()}, labels)
    torch.testing.assert_close(half.gaps, expected.gaps, atol=0.02, rtol=0)


def test_logits_that_need_gradients_are_left_alone():
    logits, labels, _ = predictions()
    asking = {name: values.clone().requires_grad_() for name, values in logits.items()}
    measured = mm.measure(asking, labels)
    assert not measured.gaps.requires_grad
    assert all(values.requires_grad and values.grad is None for values in asking.values())


def test_logarithms_of_probabilities_and_classes_that_are_ruled_out_are_logits():
    logits, labels, _ = predictions()
    expected = mm.measure(logits, labels)
    logs = mm.measure({name: values.double().log_softmax(dim=1) for name, values in logits.items()}, labels)
    torch.testing.assert_close(logs.gaps, expected.gaps)
    other = torch.nn.functional.one_hot((labels + 1) % CLASSES, CLASSES).bool()
    ruled_out = {name: values.masked_fill(other, -torch.inf) for name, values in logits.items()}
    assert mm.measure(ruled_out, labels).probabilities["audio"].mean() > expected.probabilities["audio"].mean()


def test_the_sign_follows_the_order_of_the_modalities():
    logits, labels, _ = predictions()
    forth = mm.measure(logits, labels)
    back = mm.measure(dict(reversed(logits.items())), labels)
    assert torch.equal(forth.gaps, -back.gaps)
    assert forth.sentence().startswith("audio is ahead: mean gap +0.")
    assert back.sentence().startswith("audio is ahead: mean gap -0.")


def test_three_modalities():
    logits, labels, _ = predictions()
    measured = mm.measure({**logits, "text": 2 * logits["audio"]}, labels)
    assert measured.sentence().startswith("another modality than audio is ahead")
    assert list(measured.table())[3:6] == ["p_audio", "p_visual", "p_text"]


def test_the_sentence_says_what_to_distrust_in_the_words_of_python():
    logits, labels, _ = predictions(audio=6.0)
    off = mm.measure(logits, labels).sentence()
    assert 'The "balanced" component is not balanced' in off
    assert "kind=two_absolute" in off
    assert not any(word in off for word in ("mixture=", "*", "`", "training"))
    even = mm.measure({"audio": logits["audio"], "visual": logits["audio"]}, labels).sentence()
    assert even.startswith("No modality is ahead on average: mean gap +0.00 over 300 samples")
    assert even.endswith("No mixture was fitted: the gaps are too few or all the same.")


def test_without_fused_logits_their_probability_is_not_made_up():
    logits, labels, _ = predictions()
    table = mm.measure(logits, labels).table()
    assert table["p_fused"].isna().all()
    assert table.drop(columns="p_fused").notna().all().all()


def test_samples_by_id():
    logits, labels, _ = predictions()
    ids = [f"clip {place}" for place in range(SAMPLES)]
    measured = mm.measure(logits, labels, ids)
    assert list(measured.table()["sample"]) == ids
    found = measured.posterior_of(["clip 7", "clip 2"])
    assert found.dtype == torch.float32
    assert found.tolist() == measured.posterior_imbalanced[[7, 2]].float().tolist()
    numbered = mm.measure(logits, labels, torch.arange(SAMPLES) + 1000)
    assert numbered.posterior_of(torch.tensor([1007, 1002])).tolist() == found.tolist()
    assert mm.measure(logits, labels).posterior_of(np.array([7, 2])).tolist() == found.tolist()
    with pytest.raises(ValueError, match="sample clip 300 is not among the 300 that were measured"):
        measured.posterior_of(["clip 7", "clip 300"])


def test_the_most_suspicious_sample_is_the_one_whose_sound_says_something_else():
    logits, labels, _ = predictions()
    swapped = (labels[5] + 1) % CLASSES
    logits["audio"][5, swapped] = 20.0
    rows = mm.measure(logits, labels).most_suspicious(3)
    assert len(rows) == 3
    assert rows["sample"][0] == "5"
    assert rows["doubted"][0] == "audio"
    assert rows["why"][0].startswith("audio alone gives the class p 0.000, usually")
    assert list(rows["suspicion"]) == sorted(rows["suspicion"], reverse=True)


def test_figures(tmp_path):
    logits, labels, _ = predictions()
    measured, validation = mm.measure(logits, labels), mm.measure(*predictions(seed=1)[:2])
    texts = [
        text.get_text() for text in measured.figure(title="My network").findobj(lambda item: hasattr(item, "get_text"))
    ]
    assert "My network" in texts
    assert any("p(audio) − p(visual)" in text for text in texts)
    assert len(measured.figure(validation=validation).axes) > len(measured.figure().axes)
    measured.save_figure(tmp_path / "gaps.png")
    with Image.open(tmp_path / "gaps.png") as image:
        image.load()
    measured.save_figure(str(tmp_path / "gaps.pdf"), validation=validation)
    assert (tmp_path / "gaps.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match=r"gaps\.jpg: a figure is written as \.png or \.pdf"):
        measured.save_figure("gaps.jpg")


# Logits of probabilities, so the sigmoid gives these back. True: 0 and 1, then 2.
MULTI_HOT = [[1, 1, 0], [0, 0, 1]]
MULTI_PROBABILITIES = {"audio": [[0.8, 0.6, 0.1], [0.5, 0.5, 0.25]], "visual": [[0.2, 0.4, 0.9], [0.5, 0.5, 0.75]]}
MULTI = {name: np.log(values) - np.log1p(-np.array(values)) for name, values in MULTI_PROBABILITIES.items()}


@pytest.mark.parametrize("dtype", [bool, int, np.uint8, np.float32])
def test_golden_numbers_of_several_true_classes(dtype):
    labels = np.array(MULTI_HOT, dtype)
    measured = mm.measure(MULTI, labels, ["a", "b"], fused=np.zeros((2, 3)))
    assert measured.is_multi_label
    assert measured.probabilities["audio"].tolist() == pytest.approx([0.7, 0.25])
    assert measured.probabilities["visual"].tolist() == pytest.approx([0.3, 0.75])
    assert measured.gaps.tolist() == pytest.approx([0.4, -0.5])
    table = measured.table()
    assert list(table["label"]) == ["0 1", "2"]
    assert list(table["p_fused"]) == [0.5, 0.5]
    assert table["label"].str.get_dummies(" ").to_numpy().tolist() == MULTI_HOT


def test_several_true_classes_have_all_that_one_has():
    logits, labels, fused = multi_label_predictions()
    measured = mm.measure(logits, labels, fused=fused)
    assert measured.mixture == fit_mixture(
        modality_gap({name: value.double() for name, value in logits.items()}, labels)
    )
    assert set(measured.metrics()) == set(names.REFIT_METRICS)
    assert measured.sentence().startswith("audio is ahead: mean gap +0.")
    assert "(mean probability of the true classes, not accuracy)" in measured.sentence()
    assert "exactly one" not in measured.sentence()
    assert measured.posterior_of(["3"]).tolist() == [float(measured.posterior_imbalanced[3].float())]
    logits["audio"][5, labels[5] == 1] = -12.0
    rows = mm.measure(logits, labels).most_suspicious(3)
    assert (rows["sample"][0], rows["doubted"][0]) == ("5", "audio")


def test_the_table_of_several_true_classes_reads_back_from_files(tmp_path):
    logits, labels, _ = multi_label_predictions(classes=12)
    table = mm.measure(logits, labels).table()
    table.to_csv(tmp_path / "gaps.csv", index=False)
    table.to_parquet(tmp_path / "gaps.parquet", index=False)
    for read in (pd.read_csv(tmp_path / "gaps.csv", dtype={"label": str}), pd.read_parquet(tmp_path / "gaps.parquet")):
        found = torch.zeros_like(labels)
        for row, text in enumerate(read["label"]):
            found[row, [int(item) for item in text.split()]] = 1
        assert torch.equal(found, labels)


def test_one_true_class_each_is_not_taken_for_class_numbers_and_the_sentence_says_so():
    logits, labels, _ = predictions()
    numbers, one_hot = mm.measure(logits, labels), mm.measure(logits, torch.eye(CLASSES)[labels])
    assert not numbers.is_multi_label
    expected = logits["audio"].double().gather(1, labels[:, None])[:, 0].sigmoid()
    torch.testing.assert_close(one_hot.probabilities["audio"], expected)
    assert (one_hot.gaps - numbers.gaps).abs().max() > 0.1
    assert "if the classes exclude each other, give class numbers" in one_hot.sentence()
    assert "exclude" not in numbers.sentence()


def test_a_modality_that_has_learned_nothing_is_not_taken_for_probabilities():
    logits, labels, _ = multi_label_predictions()
    measured = mm.measure({"audio": logits["audio"], "visual": torch.zeros_like(logits["audio"])}, labels)
    assert measured.probabilities["visual"].unique().tolist() == [0.5]
    untrained = torch.tensor([0.2, 0.6, 0.1, 0.8]) + 0.01 * logits["audio"].clamp(-2, 2)  # all between 0 and 1
    assert len(mm.measure({"audio": untrained, "visual": logits["visual"]}, labels).gaps) == SAMPLES


def given(**changes):
    logits, labels, fused = predictions()
    return {"logits": logits, "labels": labels, "fused": fused} | changes


def with_value(value, row=3):
    logits = predictions()[0]
    logits["visual"][row, 0] = value
    return logits


LOGITS, LABELS, _FUSED = predictions()
BAD = {
    "one modality": ({"logits": {"audio": LOGITS["audio"]}}, r"two or more modalities.*got \['audio'\]"),
    "no mapping": ({"logits": LOGITS["audio"]}, "must map two or more modalities to their logits, got Tensor"),
    "fused among them": ({"logits": LOGITS | {"fused": _FUSED}}, "fused is no modality: give its logits as fused="),
    "not a number": ({"logits": with_value(torch.nan)}, "logits of visual are not finite in 1 of 300 samples, first in sample 3"),
    "infinite": ({"logits": with_value(torch.inf)}, "logits of visual are not finite in 1 of 300 samples, first in sample 3"),
    "all ruled out": ({"logits": with_value(torch.tensor(-torch.inf), slice(3, 4)) | {"audio": torch.full((300, 4), -torch.inf)}},
                      "logits of audio are not finite in 300 of 300"),
    "fused not finite": ({"fused": _FUSED * torch.nan}, "logits of fused are not finite"),
    "fewer rows": ({"logits": LOGITS | {"visual": LOGITS["visual"][:299]}}, r"logits of visual have shape \(299, 4\)"),
    "fewer classes": ({"logits": LOGITS | {"visual": LOGITS["visual"][:, :3]}}, r"visual have shape \(300, 3\).*need \(300, 4\)"),
    "fused of another shape": ({"fused": _FUSED[:, :2]}, r"logits of fused have shape \(300, 2\)"),
    "one class": ({"logits": {name: values[:, :1] for name, values in LOGITS.items()}}, "two or more classes"),
    "flat": ({"logits": LOGITS | {"audio": LOGITS["audio"].flatten()}}, r"logits of audio have shape \(1200,\)"),
    "classes for logits": ({"logits": {name: values.long() for name, values in LOGITS.items()}}, "not floating-point numbers"),
    "texts for logits": ({"logits": LOGITS | {"audio": [["a", "b"]] * 300}}, "logits of audio are no array of numbers"),
    "ragged": ({"logits": LOGITS | {"audio": [[0.1, 0.2], [0.3]]}}, "logits of audio are no array of numbers"),
    "probabilities": ({"logits": {name: values.softmax(1) for name, values in LOGITS.items()}}, "logits of audio are probabilities"),
    "labels too high": ({"labels": torch.where(torch.arange(300) == 9, 4, LABELS)}, "label 4 of sample 9 is out of range: 4 classes"),
    "labels below 0": ({"labels": torch.where(torch.arange(300) == 9, -1, LABELS)}, "label -1 of sample 9 is out of range"),
    "float labels": ({"labels": LABELS.double()}, "labels are torch.float64; need integers"),
    "boolean labels": ({"labels": LABELS > 1}, "labels are torch.bool; need integers"),
    "labels of a regression": ({"labels": LABELS / 3}, r"The method needs classes: .* \(regression is not supported\)"),
    "targets in one column": ({"labels": LABELS[:, None] / 3}, r"labels have shape \(300, 1\).* \(regression is not supported\)"),
    "classes in one column": ({"labels": LABELS[:, None]}, r"labels have shape \(300, 1\); need .*: give labels\[:, 0\]$"),
    "targets in three columns": ({"labels": torch.ones(300, 3)}, r"labels have shape \(300, 3\), but the logits have 4 classes"),
    "targets in as many columns": ({"labels": LOGITS["audio"]}, r"sample 0: .* is neither 0 nor 1\. The method needs classes"),
    "labels of three dimensions": ({"labels": torch.ones(300, 4, 1)}, r"labels have shape \(300, 4, 1\); need"),
    "lists of classes": ({"labels": [[0, 2], [1]] * 150}, "lists of different lengths: give several classes per sample as multi-hot"),
    "another number of multi-hot labels": ({"labels": torch.ones(299, 4)}, "there are 299 labels"),
    "no true class": ({"labels": torch.eye(5)[[*LABELS[:299], 4]][:, :4]},
                      "labels of sample 299: no true class, so it has no gap; leave such samples out, or give them a class"),
    "multi-hot and probabilities": ({"labels": torch.eye(4)[LABELS], "logits": {name: torch.rand(300, 4) for name in LOGITS}},
                                    r"logits of audio are probabilities \(all are between .* and 1\): .* torch\.logit"),
    "text labels": (
        {"labels": ["cat"] * 300},
        r"labels are no array of numbers: they are texts; give class numbers from 0: numpy\.unique\(labels, return_inv",
    ),
    "fewer labels": ({"labels": LABELS[:299]}, "there are 299 labels"),
    "no labels": ({"labels": torch.zeros(0, dtype=torch.long)}, "0 labels: need two or more samples"),
    "an id twice": ({"samples": ["a", "b", "a", *(str(place) for place in range(297))]}, "the sample id a is given more than once"),
    "fewer ids": ({"samples": ["a", "b"]}, "2 sample ids for 300 labels"),
    "another mixture": ({"kind": "four"}, "kind=four is not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_whatever_is_wrong_is_one_clear_line(name):
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message) as found:
        mm.measure(**given(**changes))
    assert "\n" not in str(found.value)


def test_few_samples_have_gaps_but_no_mixture():
    logits, labels, _ = predictions(samples=5)
    measured = mm.measure(logits, labels)
    assert measured.mixture.degenerate
    assert measured.posterior_imbalanced.tolist() == [0.0] * 5


def test_many_classes_are_converted_in_blocks_to_the_same_numbers(monkeypatch):
    logits, labels, _ = predictions(samples=1000, classes=7)
    whole = exact_probabilities(logits["audio"], labels)
    monkeypatch.setattr("mm_balance.functional.gap_fits.BLOCK_ELEMENTS", 7 * 64)
    assert torch.equal(exact_probabilities(logits["audio"], labels), whole)
    several, multi_hot, _ = multi_label_predictions(samples=1000, classes=7)
    blocks = exact_probabilities(several["audio"], multi_hot)
    monkeypatch.undo()
    assert torch.equal(blocks, exact_probabilities(several["audio"], multi_hot))


@pytest.mark.parametrize("kind", ["two", "two_absolute", "three"])
def test_a_large_set_is_fitted_as_well_as_on_all_gaps_themselves(kind, monkeypatch):
    logits, labels, _ = predictions(samples=3 * BINS)
    gaps = mm.measure(logits, labels, kind=kind).gaps
    fast = fit_mixture(gaps, kind=kind)
    monkeypatch.setattr("mm_balance.functional.mixture.BINS", len(gaps))
    thorough = fit_mixture(gaps, kind=kind)
    assert fast != thorough
    assert fast.log_likelihood > thorough.log_likelihood - 1e-5


def test_the_example_is_right():
    assert doctest.testmod(measuring).failed == 0


def test_nothing_heavy_is_loaded_before_it_is_needed():
    code = (
        "import sys, mm_balance as mm; print([name for name in ('torch', 'mlflow', 'pandas', 'matplotlib') if name in sys.modules])\n"
        "from mm_balance import log_refit, measure\n"
        "print([name for name in ('mlflow', 'matplotlib', 'librosa') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
