"""Reading data draws nothing; the card is made by the first run that logs the data."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from mm_balance import names
from mm_balance.config import resolve
from mm_balance.data import load_outside
from mm_balance.errors import UserError
from mm_balance.testing import tiny_data
from mm_balance.tracking.lookup import open_run
from mm_balance.workflow import card
from mm_balance.workflow.card import log_data
from mm_balance.workflow.setup import read_data
from tests.helpers.commands import do, newest
from tests.helpers.manifests import Folder
from tests.helpers.outside import write_module

pytestmark = pytest.mark.usefixtures("signals", "store")
CARD = {f"data/{name}" for name in (names.CARD_FILE, names.SHEET_FILE, names.SAMPLES_FILE)}


@pytest.fixture
def manifest(tmp_path):
    folder = Folder(tmp_path)
    folder.fill(("ja", "nein"), (("train", 12), ("val", 3), ("test", 3)))
    return str(folder.write())


def read(manifest, **values):
    return read_data(resolve({"dataset": manifest, "image_size": 32, "clip_seconds": 0.5, **values}))


def test_reading_makes_no_card_and_a_run_that_logs_the_data_does(manifest):
    data = read(manifest)
    assert not data.card.exists()
    run = open_run("evaluation")
    log_data(run, data, "evaluation")
    assert not data.card.exists()
    assert set(run.artifact_names("")) == {names.DATA_FILE}
    run = open_run("training")
    log_data(run, data, "training")
    assert set(run.artifact_names(names.DATA_FOLDER)) == CARD
    (item,) = run.read().inputs.dataset_inputs
    assert item.tags[0].value == "training"


def test_the_card_is_of_the_whole_set_whatever_part_of_it_is_trained_on(manifest, monkeypatch):
    shown = []
    monkeypatch.setattr(card, "contact_sheet", lambda samples, **words: shown.append([item.name for item in samples]))
    monkeypatch.setattr(card, "save_png", lambda figure, path: path.write_bytes(b""))
    data = read(manifest, train_fraction=0.5).with_held_out(0.25, seed=0)
    assert len(data.splits["train"]) < 12
    run = open_run("training")
    log_data(run, data, "training")
    assert data.whole.whole is None
    whole = read(manifest)
    assert shown == [[item.name for item in card.sheet_samples(whole)]]
    assert pq.read_table(data.card / names.SAMPLES_FILE)["sample"].to_pylist() == whole.table["sample"]
    log_data(open_run("another"), whole, "training")
    assert len(shown) == 1  # once


def text_of(run, tmp_path):
    return run.fetch(f"{names.DATA_FOLDER}/{names.CARD_FILE}", tmp_path).read_text("utf-8")


def made(**given):
    return load_outside(lambda: tiny_data(**given), ("audio", "visual"), "the data")


def test_data_without_a_store_have_the_same_card_on_each_run(tmp_path):
    data = replace(made(kind="vector"), warnings=["two labels look alike"])
    run = open_run("training")
    log_data(run, data.with_train_fraction(0.5, seed=0).with_held_out(0.2, seed=0), "training", "python:tiny")
    assert set(run.artifact_names(names.DATA_FOLDER)) == CARD
    text = text_of(run, tmp_path)
    assert "| 0 | 14 | 4 | 4 | 22 |" in text
    assert "| **all** | **40** | **12** | **12** | **64** |" in text, (
        "of the whole data set, whatever part is trained on"
    )
    assert "- audio: vector, 8 (features)\n- visual: vector, 8 (features)\n" in text
    for told in (f"digest: `{data.digest}`", "made by a test.", "## Warnings (1)\n\n- two labels look alike"):
        assert told in text
    assert "## Files" not in text
    table = pq.read_table(run.fetch(f"{names.DATA_FOLDER}/{names.SAMPLES_FILE}", tmp_path))
    assert table["sample"].to_pylist() == data.table["sample"]
    sheet = run.fetch(f"{names.DATA_FOLDER}/{names.SHEET_FILE}", tmp_path)
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_a_sample_of_several_classes_counts_in_each_of_them_also_where_it_is_left_out(tmp_path):
    data = made(several_classes=True).with_train_fraction(0.5, seed=0)
    run = open_run("training")
    log_data(run, data, "training")
    # Every other sample has the class after its own, too.
    for row in (
        "| 0 | 21 | 6 | 6 | 33 |",
        "| 1 | 20 | 6 | 6 | 32 |",
        "| 2 | 19 | 6 | 6 | 31 |",
        "| **all** | **40** |",
    ):
        assert row in text_of(run, tmp_path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("image", ["- visual: image, 1 x 8 x 8 (channels, height, width)"]),
        ("sequence", ["- audio: sequence, 5 x 8 (steps, features)", "| audio | train | 40 | 5 | 5 | 5.00 | 5 |"]),
    ],
)
def test_shapes_and_lengths_are_on_the_card(kind, told, tmp_path):
    run = open_run("training")
    log_data(run, made(kind=kind), "training")
    for line in told:
        assert line in text_of(run, tmp_path)


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        (
            "own_data:bare",
            "```\nmlflow run . --env-manager local -P dataset=own_data:bare -P encoder=resnet_narrow -P batch_size=32 ",
        ),
        ("python:tiny", "```\nmm_balance.run(data, encoder='resnet_narrow', batch_size=32, learning_rate=0.02, "),
        ("own_data:build", None),
        ("digits", None),
        (None, None),
    ],
)
def test_the_card_suggests_settings_as_one_gives_them(import_folder, tmp_path, dataset, told):
    source = "def bare(): pass\ndef build(): pass\nbuild.settings = {'epochs': 3}\n"
    write_module(import_folder, "own_data", source)
    run = open_run("training")
    log_data(run, made(), "training", dataset)
    text = text_of(run, tmp_path)
    assert ("Suggested settings" in text) is (told is not None)
    assert (told or "digest") in text


def test_digits_have_a_card_on_the_outermost_run_only():
    data = read_data(resolve({"preset": "quick"}))
    parent = open_run("main")
    log_data(parent, data, "training")
    assert set(parent.artifact_names(names.DATA_FOLDER)) == CARD
    for run, context in ((open_run("warm-up", parent=parent), "training"), (open_run("test"), "evaluation")):
        log_data(run, data, context)
        assert run.artifact_names(names.DATA_FOLDER) == []


def test_samples_in_memory_are_shown_as_picture_and_spectrogram_and_corruption_is_named():
    data = read_data(resolve({"preset": "quick", "corruption": 0.5}))
    found = card.sheet_samples(data)
    assert len({item.label.split()[0] for item in found[:10]}) == 10
    assert found[0].pictures["visual"].shape == (1, 1, 36, 36)
    assert found[0].pictures["visual"].dtype == "uint8"
    assert (found[0].pictures["visual"].min(), found[0].pictures["visual"].max()) == (0, 255)
    assert found[0].spectrograms["audio"].shape == (40, 64)
    train = data.splits["train"]
    corrupted = dict(zip(train.samples, train.corrupted, strict=True))
    assert any("corrupted: " in item.label for item in found)
    for item in found:
        assert item.label.endswith(f"(corrupted: {corrupted[item.name]})") is bool(corrupted[item.name])


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_sheet_with_corrupted_samples_says_what_this_is(share):
    sheet = card._sheet(read_data(resolve({"preset": "quick", "corruption": share})))
    text = " ".join(" ".join(item.get_text() for item in sheet.texts).split())
    assert (card.CORRUPTED in text) is (share > 0)


def test_a_part_of_data_in_memory_keeps_nothing_of_the_whole(tiny_data):
    assert tiny_data.with_train_fraction(0.5, seed=0).whole is None


def test_a_card_that_cannot_be_written_is_a_mistake_in_one_line(manifest):
    data = read(manifest)
    data.card.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written .*; the store itself is intact"):
        log_data(open_run("training"), data, "training")


def test_prepare_and_training_log_the_card(manifest):
    words = "image_size=32 clip_seconds=0.5"
    assert do("prepare", words, dataset=manifest) == 0
    more = "encoder=resnet_narrow batch_size=8 learning_rate=0.02 device=cpu warmup_epochs=1"
    assert do("warmup", f"{words} {more}", dataset=manifest) == 0
    for stage in ("prepare", "warmup"):
        run = newest(stage=stage)
        logged = {item.path for item in MlflowClient().list_artifacts(run.info.run_id, names.DATA_FOLDER)}
        assert logged == CARD, stage
