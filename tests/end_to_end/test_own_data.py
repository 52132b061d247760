"""A data set of one's own, made by a function: trained on, found again by its warm-up, explored, evaluated, studied, served."""

import sys

import mlflow
import numpy as np
import pandas as pd
import pytest

from tests.helpers.commands import artifacts, by_stage, do, newest, runs
from tests.helpers.outside import write_module

pytestmark = pytest.mark.slow
SOURCE = """
import numpy as np

import mm_balance as mm

def build():
    def some(first, count):
        for number in range(first, first + count):
            random = np.random.default_rng(number)
            label = number % 3
            yield {
                "word": random.normal(label, 1.0, 6),
                "motion": random.normal(label, 2.0, (4 + number % 3, 2)),
                "label": ("a", "b", "c")[label],
            }

    parts = {"train": list(some(0, 60)), "val": list(some(60, 12)), "test": list(some(72, 12))}
    return mm.from_dataset(parts, modalities=("word", "motion"), name="words")

build.settings = {
    "modalities": "word,motion", "encoder": "word:mlp,motion:transformer", "batch_size": 16, "learning_rate": 0.02,
    "warmup_epochs": 1, "adaptive_epochs": 2, "epochs": 2, "refit_every": 1,
}
"""
WORDS = "dataset=own_words:build device=cpu"


@pytest.fixture
def module(import_folder):
    """The folder with a module `own_words` of the current user's."""
    write_module(import_folder, "own_words", SOURCE)
    return import_folder


@pytest.mark.verify
def test_every_command_takes_it(store, module, capsys):
    assert do("warmup", WORDS) == 0
    assert do("adaptive", f"{WORDS} worst=5") == 0
    adaptive = by_stage()["adaptive"]
    assert adaptive.data.tags["mm.dataset"] == "words"
    assert adaptive.data.params["config/dataset"] == "own_words:build"
    assert adaptive.data.params["config/encoder"] == "word:mlp,motion:transformer"
    assert {"explorer.html", "samples.parquet"} <= artifacts(adaptive)
    assert artifacts(adaptive, "data") == {"data/card.md", "data/contact_sheet.png", "data/samples.parquet"}
    assert do("evaluate", f"run_id={adaptive.info.run_id} device=cpu") == 0
    assert 0 <= newest(stage="evaluate").data.metrics["test/accuracy"] <= 1
    assert do("explore", f"run_id={adaptive.info.run_id} worst=3 device=cpu") == 0

    model = mlflow.pyfunc.load_model(f"runs:/{adaptive.info.run_id}/model")
    np.save(store / "word.npy", np.ones(6))
    table = pd.DataFrame([{"word": str(store / "word.npy"), "motion": np.ones((3, 2)).tolist()}])
    (answer,) = model.predict(table)["class"]
    assert answer in ("a", "b", "c")

    # Other contents are other data: the warm-up is not theirs.
    write_module(module, "own_words", SOURCE.replace("label, 1.0", "label, 1.1"))
    sys.modules.pop("own_words")
    capsys.readouterr()
    assert do("adaptive", WORDS) == 1
    assert "no finished warm-up run with these settings" in capsys.readouterr().err
    assert do("train", f"{WORDS} corruption=0.2 train_fraction=0.5 worst=0") == 0
    assert newest(stage="train").data.tags["mm.data_digest"] != adaptive.data.tags["mm.data_digest"]


def test_prepare_has_nothing_to_do(store, module, capsys):
    assert do("prepare", "dataset=own_words:build") == 1
    assert "is made by a function: there is nothing to prepare" in capsys.readouterr().err


@pytest.mark.verify
def test_a_study_with_two_workers(store, module, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{module}:{sys.path[0]}")
    words = "dataset=own_words:build trials=2 workers=2 devices=cpu search=weights study_name=words"
    assert do("study", words) == 0
    trials = [run for run in runs() if run.data.tags.get("mm.dataset") == "words" and "mm.trial" in run.data.tags]
    assert len(trials) >= 2
