"""Reading data draws nothing; the card is made by the first run that logs the data."""

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from mm_balance import names
from mm_balance.config import resolve
from mm_balance.errors import UserError
from mm_balance.tracking.lookup import open_run
from mm_balance.workflow import card
from mm_balance.workflow.card import log_data
from mm_balance.workflow.setup import read_data
from tests.helpers.commands import do, newest
from tests.helpers.manifests import Folder

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


def test_digits_have_a_contact_sheet_on_the_outermost_run_only():
    data = read_data(resolve({"preset": "quick"}))
    parent = open_run("main")
    log_data(parent, data, "training")
    assert parent.artifact_names(names.DATA_FOLDER) == [f"{names.DATA_FOLDER}/{names.SHEET_FILE}"]
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
