"""Readers of raw downloads: the real lists, the official layouts, and what is wrong with both."""

import csv
import hashlib
from collections import Counter

import pytest

from mm_balance.data.readers import READERS, read_raw, write_manifest
from mm_balance.data.readers.kinetics_sounds import CLASSES
from mm_balance.errors import UserError
from tests.helpers.raw import (
    SHARED,
    ave_lists,
    cremad_clips,
    kinetics_rows,
    link,
    make_ave,
    make_cremad,
    make_kinetics,
)

SPEAKERS = "4177004a90ba88fe"
"""SHA-256, shortened, of the split by speakers."""
KNOWN_BAD = {"1076_MTI_SAD_XX", "1076_MTI_NEU_XX", "1064_TIE_SAD_XX"}


@pytest.fixture(scope="module")
def whole_cremad(tmp_path_factory):
    return make_cremad(tmp_path_factory.mktemp("raw") / "CREMA-D")


def splits(raw):
    return {split: {row.sample for row in raw.rows if row.split == split} for split in ("train", "val", "test")}


def test_cremad_at_its_full_size(whole_cremad):
    raw = read_raw("cremad", whole_cremad, protocol="published")
    found = splits(raw)
    listed = cremad_clips()
    assert (len(listed), len(set(listed))) == (7442, 7442)
    assert len(raw.rows) == 7442 - 3
    assert found["train"] | found["test"] == set(listed) - KNOWN_BAD
    assert (len(found["train"]), len(found["val"]), len(found["test"])) == (
        len(set(listed[:6698]) - KNOWN_BAD), 0, len(set(listed[6698:]) - KNOWN_BAD)
    )  # fmt: skip
    assert not found["train"] & found["test"]
    assert {row.label for row in raw.rows} == {"NEU", "HAP", "SAD", "FEA", "DIS", "ANG"}
    assert raw.missing == []
    assert {line.split(":")[0] for line in raw.excluded} == KNOWN_BAD
    assert all("README of CREMA-D" in line for line in raw.excluded)
    assert "91 of 91 test actors are heard and seen in training too; protocol=speaker keeps them apart" in raw.notes
    first = next(row for row in raw.rows if row.sample == "1001_IEO_HAP_MD")
    assert first.files == {"audio": "AudioWAV/1001_IEO_HAP_MD.wav", "visual": "VideoFlash/1001_IEO_HAP_MD.flv"}
    assert first.extra == {
        "actor": "1001", "sentence": "IEO", "level": "MD", "age": "21", "sex": "Female", "race": "Asian",
        "ethnicity": "Not Hispanic", "voice_vote": "A", "voice_level": "60.5", "face_vote": "H:N", "face_level": "50:51",
        "multi_modal_vote": "A", "multi_modal_level": "70",
    }  # fmt: skip
    assert all(row.extra["voice_vote"] for row in raw.rows)


def test_speakers_are_kept_apart_the_same_way_for_ever(whole_cremad):
    raw = read_raw("cremad", whole_cremad, protocol="speaker")
    actors = {
        split: {row.extra["actor"] for row in raw.rows if row.split == split} for split in ("train", "val", "test")
    }
    assert {split: len(found) for split, found in actors.items()} == {"train": 73, "val": 9, "test": 9}
    assert len(actors["train"] | actors["val"] | actors["test"]) == 91
    assert all(row.group == row.extra["actor"] for row in raw.rows)
    fixed = hashlib.sha256(repr(sorted((split, sorted(found)) for split, found in actors.items())).encode()).hexdigest()
    assert fixed[:16] == SPEAKERS, "the split by speakers has changed: published numbers on it would no longer hold"
    for split, samples in splits(raw).items():
        counts = Counter(row.label for row in raw.rows if row.sample in samples)
        assert max(counts.values()) < 1.4 * min(counts.values()), split


def test_the_real_votes_where_they_are_at_hand(tmp_path):
    if not (SHARED / "cremad").is_dir():
        pytest.skip("the real tables are not at hand")
    folder = make_cremad(tmp_path / "raw", votes=False)
    (folder / "processedResults").mkdir()
    table = (SHARED / "cremad" / "cheyney_summaryTable.csv").read_bytes()
    (folder / "processedResults" / "summaryTable.csv").write_bytes(table)
    (folder / "VideoDemographics.csv").write_bytes((SHARED / "cremad" / "cheyney_VideoDemographics.csv").read_bytes())
    raw = read_raw("cremad", folder, protocol="published")
    row = next(row for row in raw.rows if row.sample == "1001_IEO_HAP_LO")
    assert (row.extra["voice_vote"], row.extra["face_vote"], row.extra["age"]) == ("N", "H", "51")
    assert sum(bool(row.extra["voice_vote"]) for row in raw.rows) == len(raw.rows)
    assert len({row.extra["sex"] for row in raw.rows}) == 2


def test_cremad_prefers_mp4_and_does_without_votes(tmp_path):
    clips = cremad_clips()[:20]
    folder = make_cremad(tmp_path / "raw", clips=clips, votes=False, films="VideoMP4")
    (folder / "VideoFlash").mkdir()
    raw = read_raw("cremad", folder, protocol="published")
    assert {row.files["visual"].split("/")[0] for row in raw.rows} == {"VideoMP4"}
    assert len(raw.missing) == 7442 - 3 - len(raw.rows)
    assert any("summaryTable.csv is not in the download" in note for note in raw.notes)
    assert {row.extra["voice_vote"] for row in raw.rows} == {""}


def test_missing_clips_are_named_never_dropped(tmp_path):
    clips = cremad_clips()
    folder = make_cremad(tmp_path / "raw", clips=clips)
    gone = next(clip for clip in clips if clip not in KNOWN_BAD)
    (folder / "AudioWAV" / f"{gone}.wav").unlink()
    raw = read_raw("cremad", folder, protocol="published")
    assert raw.missing == [f"sample {gone!r}: no file in AudioWAV/*.wav"]


def test_ave(tmp_path):
    raw = read_raw("ave", make_ave(tmp_path / "AVE_Dataset"), protocol="published")
    lists = ave_lists()
    lines = {split: lists[f"{split}Set.txt"].splitlines() for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in splits(raw).items()} == {
        split: len(found) for split, found in lines.items()
    }
    assert len({row.label for row in raw.rows}) == 28
    assert len({row.sample for row in raw.rows}) == len(raw.rows)
    videos = Counter(row.extra["video"] for row in raw.rows)
    several = {video for video, count in videos.items() if count > 1}
    assert several
    for row in raw.rows:
        assert row.files["audio"] == row.files["visual"] == f"AVE/{row.extra['video']}.mp4"
        assert (row.sample != row.extra["video"]) <= (row.extra["video"] in several)
    told = next(note for note in raw.notes if "more than one event" in note)
    across = sum(len({row.split for row in raw.rows if row.extra["video"] == video}) > 1 for video in several)
    assert told.startswith(f"{len(several)} videos")
    assert f"{across} of them are in two splits" in told
    if SHARED.is_dir():
        assert (len(raw.rows), len(several), across) == (4143, 45, 18)
        assert not [note for note in raw.notes if "not the known" in note]


def test_another_list_of_ave_is_read_and_said_to_be_another(tmp_path):
    folder = make_ave(tmp_path / "AVE_Dataset")
    lines = (folder / "testSet.txt").read_text("utf-8").splitlines()
    (folder / "testSet.txt").write_text("\n".join([*lines[1:], lines[1]]), "utf-8")
    raw = read_raw("ave", folder, protocol="published")
    assert len(splits(raw)["test"]) == len(lines) - 1
    assert any(note.startswith("testSet.txt is not the known list: SHA-256") for note in raw.notes)
    assert "testSet.txt has 1 line(s) twice; each is read once" in raw.notes
    (folder / "valSet.txt").write_text("Church bell&x&good&0\n")
    with pytest.raises(UserError, match=r"valSet\.txt: line 1 is not Category&VideoID&Quality&StartTime&EndTime"):
        read_raw("ave", folder, protocol="published")


def test_kinetics_sounds_at_its_full_size(tmp_path):
    raw = read_raw("kinetics_sounds", make_kinetics(tmp_path / "KS"), protocol="published")
    found = splits(raw)
    assert (len(found["train"]), len(found["val"]), len(found["test"])) == (14_799, 0, 2597)
    assert {row.label for row in raw.rows} == set(CLASSES)
    assert len(CLASSES) == 31
    assert list(CLASSES) == sorted(CLASSES)
    assert any("here 17,396 of 17,396 clips lie in a folder that says the same" in note for note in raw.notes)


def test_kinetics_names_and_layouts(tmp_path):
    test = next(row for row in kinetics_rows() if row[0] == "test")
    train = next(row for row in kinetics_rows() if row[0] == "train")
    folder = make_kinetics(tmp_path / "KS", [train], layout="")
    video, start = test[1][:11], int(test[1][12:])
    link(folder / f"{train[1]}.mp4", folder / f"{video}_{start:06d}_{start + 10:06d}.mp4")
    raw = read_raw("kinetics_sounds", folder, protocol="published")
    assert {row.sample for row in raw.rows} == {test[1], train[1]}
    assert len(raw.missing) == 17_396 - 2
    assert any("here 0 of 2 clips" in note for note in raw.notes)


def test_a_clip_in_the_folder_of_another_class_is_an_error(tmp_path):
    split, clip, label = kinetics_rows()[0]
    other = next(name for name in CLASSES if name != label)
    folder = make_kinetics(tmp_path / "KS", [(split, clip, other)], layout="{label}")
    with pytest.raises(UserError, match=r"1 clip.*in the folder of another class"):
        read_raw("kinetics_sounds", folder, protocol="published")


@pytest.mark.parametrize("name", list(READERS))
def test_another_folder_says_what_was_looked_for(tmp_path, name):
    with pytest.raises(UserError, match="no such folder"):
        read_raw(name, tmp_path / "nowhere", protocol="published")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt"):
        read_raw(name, tmp_path, protocol="published")


def test_protocols_that_a_set_does_not_have_are_refused(tmp_path):
    for name in ("ave", "kinetics_sounds"):
        with pytest.raises(UserError, match=f"protocol=speaker: {name} has published only"):
            read_raw(name, tmp_path, protocol="speaker")


def test_the_manifest_is_the_same_every_time(tmp_path):
    clips = cremad_clips()[:30]
    raw = read_raw("cremad", make_cremad(tmp_path / "raw", clips=clips), protocol="speaker")
    write_manifest(raw, tmp_path / "one.csv")
    again = read_raw("cremad", make_cremad(tmp_path / "other" / "raw", clips=clips[::-1]), protocol="speaker")
    write_manifest(again, tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["sample", "split", "label", "audio", "visual", "group", "actor"]
    assert len(rows) == len(raw.rows)
