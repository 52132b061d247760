"""The explorer of real runs: artifacts, media of what was heard, two runs side by side, mistakes."""

import io
import json
import os
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from mm_balance.config import resolve
from mm_balance.data.digits import BANDS, CLIP, FRAMES, HOP, RATE, WINDOW, digits_sounds
from mm_balance.data.logmel import log_mel
from mm_balance.workflow.explore import MediaReader, media_folder
from mm_balance.workflow.setup import corruption_of, read_data
from tests.helpers.commands import QUICK, artifacts, do, fetch, newest, runs
from tests.helpers.manifests import Folder

EXPLORER = {"explorer.html", "samples.parquet", "suspects.csv"}


@pytest.fixture
def explored(signals, store):
    """A run of `main` on a broken part of digits, and the table of its samples."""
    assert do("main", f"{QUICK} corruption=0.4 worst=3") == 0
    run = newest(stage="main")
    return run, pq.read_table(fetch(run, "samples.parquet")).to_pandas()


def page_data(run):
    page = fetch(run, "explorer.html").read_text("utf-8")
    return page, json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


@pytest.mark.slow
def test_main_leaves_the_explorer_of_all_its_samples(explored):
    run, table = explored
    assert artifacts(run) >= EXPLORER
    results, link, *_ = run.data.tags["mlflow.note.content"].split("\n\n")
    assert "On validation" in results
    assert link.startswith("[See and hear the samples](#/experiments/0/runs/")
    assert table.groupby("split").size().to_dict() == {"test": 1000, "train": 180, "val": 500}
    page, data = page_data(run)
    assert re.search(
        r"Corruption was planted in \d\d of 180 training samples \((3|4)\d%\), and in no other split", page
    )
    assert '<option value="=train" selected>' in page
    assert "a branch that sees" not in page
    assert "**" not in page.split("<table")[0]
    assert "audio is ahead" in page or "visual is ahead" in page or "No modality is ahead" in page
    with_media = [row for row, media in zip(data["rows"], data["media"], strict=True) if media]
    assert len(with_media) == 3 * 3  # the three most suspect of each split
    (train,) = {tuple(table[table["split"] == "train"]["sample"][:3])}
    places = data["columns"].index("sample"), data["columns"].index("split")
    assert {row[places[0]] for row in with_media if row[places[1]] == "train"} == set(train)
    media = next(item for item in data["media"] if item)
    assert set(media["pictures"]) == {"audio", "visual"}
    assert set(media["sounds"]) == {"audio"}
    # The refits of stage 2, that of the warm-up first, and one point for samples of the test split.
    lengths = table.assign(points=table["gap_by_refit"].str.split().str.len()).groupby("split")["points"].unique()
    assert lengths["test"].tolist() == [1]
    assert lengths["train"].tolist() == lengths["val"].tolist() == [len(data["epochs"])]
    suspects = pd.read_csv(fetch(run, "suspects.csv"))
    assert set(suspects["doubted"]) <= {"audio", "visual", "label or all"}
    assert len(suspects) == (table["doubted"] != "").sum()
    assert list(suspects)[3:5] == ["doubted", "corrupted"]
    assert suspects["split"].map(["train", "val", "test"].index).is_monotonic_increasing
    true = suspects["corrupted"].notna()
    assert set(suspects.loc[true, "split"]) <= {"train"}
    named = (suspects["doubted"] == suspects["corrupted"])[true].sum()
    count = len(suspects[suspects["split"] == "train"])
    right = "all" if named == true.sum() else f"{named} of"
    assert (
        f"Of all {count} doubted training samples, {true.sum()} are truly corrupted, {right} {true.sum()} in the right"
        in page
    )


@pytest.mark.slow
@pytest.mark.verify
def test_two_runs_are_shown_side_by_side_with_what_changed_most_first_and_mistakes_are_one_line(
    explored, capsys, tmp_path
):
    run, table = explored
    assert do("train", f"{QUICK} corruption=0.4 worst=0 epochs=1 refit_every=1") == 0
    other = newest(stage="train")
    assert not artifacts(other) & EXPLORER
    capsys.readouterr()
    assert do("explore", f"run_id={run.info.run_id} against={other.info.run_id} worst=2 device=cpu") == 0
    assert "1680 samples" in capsys.readouterr().out
    both = pq.read_table(fetch(run, "samples.parquet")).to_pandas()
    assert (both["gap_change"].abs().diff().dropna() <= 1e-12).all()
    np.testing.assert_allclose(both["gap"] - both["against_gap"], both["gap_change"])
    assert set(both["sample"]) == set(table["sample"])
    page, data = page_data(run)
    assert "changed most" in page
    assert data["against"].startswith("concat digits seed 0")

    assert do("train", f"{QUICK} corruption=0.1 worst=0 epochs=1") == 0
    other = newest(stage="train")
    for words, message in (
        ("", "run_id is missing"),
        ("run_id=nothing", "run_id=nothing: no such run"),
        (f"run_id={run.info.run_id} against={other.info.run_id}", f"run {other.info.run_id} was trained on other data"),
        (f"run_id={run.info.run_id} source={tmp_path / 'none'}", "no such folder"),
    ):
        assert do("explore", words) == 1
        assert message in capsys.readouterr().err
    assert {item.info.status for item in runs()} == {"FINISHED"}


@pytest.mark.verify
def test_branches_that_see_each_other_are_said_to_be_such(signals, store):
    assert do("train", f"{QUICK} method=greedy worst=1 epochs=1") == 0
    assert "a branch that sees the other modalities" in page_data(newest(stage="train"))[0]


def test_the_sounds_of_digits_are_those_of_its_spectrograms():
    config = resolve({"dataset": "digits", "corruption": 0.4, "corruption_kind": "mismatch"})
    train = read_data(config).splits["train"]
    place = train.corrupted.index("audio")
    sound = digits_sounds([train.samples[place]], corruption=corruption_of(config))[train.samples[place]]
    assert sound.shape == (CLIP,)
    again = log_mel(torch.from_numpy(sound)[None], rate=RATE, window=WINDOW, hop=HOP, bands=BANDS)[..., :FRAMES]
    torch.testing.assert_close(again[0].squeeze(), train.inputs["audio"][place].squeeze())


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Twelve clips, each with a pitch and a gray level of its own."""
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))
    folder = Folder(tmp_path)
    for number in range(12):
        split = ("train", "train", "train", "train", "val", "test")[number % 6]
        audio = folder.sound(f"tone{number}.wav", pitch=300.0 + 100 * number)
        folder.add(
            split, ("low", "high")[number // 6], audio=audio, visual=folder.image(f"gray{number}.png", 20 * number)
        )
    return folder.write()


def tone(content):
    sound, rate = soundfile.read(io.BytesIO(content))
    return np.argmax(np.abs(np.fft.rfft(sound))) * rate / len(sound)


def media_of(manifest, **corruption):
    config = resolve(
        {"dataset": str(manifest), "recipe": "logmel64", "clip_seconds": 0.2, "image_size": 16, **corruption}
    )
    data = read_data(config)
    keys = [(name, sample) for name, split in data.splits.items() for sample in split.samples]
    return data, MediaReader(config, data, media_folder(config, None)).read(keys)


def test_one_hears_the_file_that_the_network_hears(clips):
    _, media = media_of(clips)
    for (_, _), item in media.items():
        number = int(item.files["audio"].removeprefix("tone").removesuffix(".wav"))
        assert item.files["visual"] == f"gray{number}.png"
        assert tone(item.sounds["audio"]) == pytest.approx(300 + 100 * number, abs=15)


def test_of_a_corrupted_clip_one_hears_the_sample_it_was_taken_from(clips):
    _, before = media_of(clips)
    data, media = media_of(clips, corruption=0.5, corruption_kind="other", corruption_modality="audio")
    train = data.splits["train"]
    assert "audio" in train.corrupted
    for place, sample in enumerate(train.samples):
        mine, own = media["train", sample], before["train", sample]
        assert (mine.files["audio"] != own.files["audio"]) == (train.corrupted[place] == "audio")
        assert mine.files["visual"] == own.files["visual"]
        number = int(mine.files["audio"].removeprefix("tone").removesuffix(".wav"))
        assert tone(mine.sounds["audio"]) == pytest.approx(300 + 100 * number, abs=15)


def test_planted_noise_has_a_spectrogram_and_no_file(clips):
    data, media = media_of(clips, corruption=0.5, corruption_kind="noise", corruption_modality="audio")
    train = data.splits["train"]
    for place, sample in enumerate(train.samples):
        item = media["train", sample]
        broken = train.corrupted[place] == "audio"
        assert ("audio" in item.sounds) != broken
        assert ("audio" in item.files) != broken
        assert item.pictures["audio"]


def test_without_the_original_files_there_are_pictures_and_names(clips):
    config = resolve({"dataset": str(clips), "recipe": "logmel64", "clip_seconds": 0.2, "image_size": 16})
    data = read_data(config)
    key = ("train", data.splits["train"].samples[0])
    (media,) = MediaReader(config, data, None).read([key]).values()
    assert media.sounds == {}
    assert set(media.pictures) == set(media.files) == {"audio", "visual"}


def test_a_sound_that_became_a_pipe_is_not_waited_for(clips):
    config = resolve({"dataset": str(clips), "recipe": "logmel64", "clip_seconds": 0.2, "image_size": 16})
    data = read_data(config)
    key = ("train", data.splits["train"].samples[0])
    reader = MediaReader(config, data, clips.parent)
    file = clips.parent / reader.read([key])[key].files["audio"]
    file.unlink()
    os.mkfifo(file)
    media = reader.read([key])[key]
    assert media.sounds == {}
    assert media.pictures["audio"]


def test_one_hears_files_that_lie_elsewhere(clips):
    """Where the run was told to allow that, which its configuration says."""
    elsewhere = clips.parent.parent / "elsewhere.wav"
    (clips.parent / "tone3.wav").rename(elsewhere)
    clips.write_text(clips.read_text("utf-8").replace("tone3.wav", str(elsewhere)), "utf-8")
    _, media = media_of(clips, allow_outside=True)
    (item,) = [item for item in media.values() if item.files["audio"] == str(elsewhere)]
    assert tone(item.sounds["audio"]) == pytest.approx(600, abs=15)
