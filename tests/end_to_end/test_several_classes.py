"""Samples with several true classes, from end to end: trained on, evaluated, explored, served; and what cannot be."""

import mlflow
import pandas as pd
import pytest

import mm_balance as mm
from mm_balance import names
from tests.helpers.commands import artifacts, by_stage, do, fetch, newest, runs
from tests.helpers.outside import write_module

pytestmark = pytest.mark.slow
SOURCE = """
import numpy as np

import mm_balance as mm

TAGS = ("bird", "car", "rain", "voice")


def some(first, count):
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        true = random.random(4) < 0.4
        true[number % 4] = True
        yield {
            "sound": 2.0 * true + random.normal(0, 0.3, 4),
            "picture": 2.0 * true * (1, 1, 0, 0) + random.normal(0, 0.3, 4),  # rain and voices cannot be seen
            "label": [name for name, is_true in zip(TAGS, true) if is_true],
        }


def build():
    parts = {"train": list(some(0, 120)), "val": list(some(120, 40)), "test": list(some(160, 40))}
    return mm.from_dataset(parts, modalities=("sound", "picture"), name="tags")


build.settings = {
    "modalities": "sound,picture", "encoder": "sound:mlp,picture:mlp", "batch_size": 16, "learning_rate": 0.2,
    "warmup_epochs": 3, "adaptive_epochs": 4, "epochs": 2, "refit_every": 2,
}
"""
TAGS = "dataset=own_tags:build device=cpu"


@pytest.fixture
def module(import_folder):
    """The folder with a module `own_tags` of the current user's."""
    write_module(import_folder, "own_tags", SOURCE)
    return import_folder


def test_the_whole_recipe(store, module, capsys):
    assert do("main", f"{TAGS} worst=4") == 0
    found = by_stage()
    metrics = found["main"].data.metrics
    # Each sound has all classes, each picture half of them: it names none where only rain or voices are true.
    assert metrics["test/accuracy_sound"] > 0.95
    assert metrics["test/accuracy_picture"] < 0.95
    assert metrics["test/mean_average_precision"] > 0.95
    assert metrics["val/gap_mean"] > 0.1
    page = found["main"].data.tags["mlflow.note.content"]
    assert "several true classes" in page
    assert "sound is ahead" in page
    run = found["adaptive"].info.run_id
    assert {"explorer.html", "samples.parquet"} <= artifacts(found["main"])
    samples = pd.read_parquet(fetch(found["main"], "samples.parquet")).set_index("sample")
    assert samples["class"].str.contains(", ").any()
    assert set(", ".join(samples["class"]).split(", ")) == {"bird", "car", "rain", "voice"}
    sound_right = samples["right"].isin(["all", "sound"])
    named = [
        predicted in classes.split(", ")
        for predicted, classes in zip(samples["predicted_sound"], samples["class"], strict=True)
    ]
    assert sound_right.tolist() == named

    assert do("evaluate", f"run_id={run} device=cpu probe=true") == 0
    evaluated = newest(stage="evaluate")
    assert evaluated.data.metrics["test/probe_accuracy_sound"] > evaluated.data.metrics["test/probe_accuracy_picture"]
    by_class = pd.read_csv(fetch(evaluated, f"{names.CLASS_TABLE}.csv")).set_index("class")
    assert set(by_class.index) == {"bird", "car", "rain", "voice"}
    assert by_class["average_precision_picture"]["rain"] < 0.8 < by_class["average_precision_picture"]["bird"]
    assert by_class["gap_mean"]["rain"] > by_class["gap_mean"]["bird"]
    assert "taken_for" not in by_class
    shown = artifacts(evaluated, "evaluation")
    assert names.CONFUSION_FIGURE not in shown
    assert {names.RELIABILITY_FIGURE, names.CLASS_GAP_FIGURE} <= shown

    model = mlflow.pyfunc.load_model(f"runs:/{found['main'].info.run_id}/model")
    table = pd.DataFrame(
        {"sound": [[2.0, 0.0, 2.0, 0.0], [0.0, 2.0, 0.0, 0.0]], "picture": [[2.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]}
    )
    answers = model.predict(table)
    assert answers["classes_sound"].map(list).tolist() == [["bird", "rain"], ["car"]]
    assert answers["class_sound"].tolist()[1] == "car"
    assert answers["class_picture"].tolist() == ["bird", "bird"]
    assert answers["modalities_disagree"].tolist()[1]
    assert answers["disagreement"][1] > 0.5
    assert sum(answers["probabilities_sound"][0].values()) > 1.5
    assert model.predict(table.head(1))["classes"].map(list).tolist()[0] == answers["classes"].map(list).tolist()[0]


def test_methods_for_one_class_are_refused_before_anything_is_trained(store, module, capsys):
    assert do("train", f"{TAGS} method=mla") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        "method=mla is for one class per sample, these data have several; use one of concat, concat_unimodal, " in line
    )
    assert "gap_mixture" in line
    assert "posterior_discount" in line
    assert runs() == []
    with pytest.raises(mm.errors.UserError, match="method=gce is for one class per sample"):
        mm.run("own_tags:build", "gce", track=False, device="cpu")


@pytest.mark.parametrize("kind", ["other", "mismatch", "label"])
def test_corruption_is_planted_from_samples_with_none_of_the_classes(module, kind):
    result = mm.run(
        "own_tags:build", "posterior_discount", track=False, device="cpu", corruption=0.3, corruption_kind=kind,
        train_fraction=0.9, warmup_epochs=1, adaptive_epochs=1,
    )  # fmt: skip
    train = result.data.splits["train"]
    assert sum(map(bool, train.corrupted)) == pytest.approx(0.3 * 120 * 0.9, abs=8)
    assert len(train) == pytest.approx(108, abs=1)
    assert 0 <= result.metrics["test/accuracy"] <= 1
