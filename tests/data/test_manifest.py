"""Manifests: what they become, and every way in which they can be wrong."""

import os
import random
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm_balance.data import Corruption, DecodeSettings, load_data
from mm_balance.data.card import card_samples
from mm_balance.errors import UserError
from mm_balance.workflow.card import sheet_samples
from tests.helpers.manifests import HEADER, OPTIONS, Folder, levels, load, seen


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def message(folder, **options):
    """The error's text: one line."""
    with pytest.raises(UserError) as caught:
        folder.load(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shapes_kinds_and_order(folder):
    data = folder.fill().load()
    assert data.classes == ("cat", "dog")
    assert data.counts == {"train": 6, "val": 2, "test": 2, "skipped": 0, "excluded": 0}
    assert [(name, spec.kind, spec.shape) for name, spec in data.specs.items()] == [
        ("audio", "sound", (1, 64, 7)),
        ("visual", "image", (3, 8, 8)),
    ]
    train = data.splits["train"]
    assert seen(train)["audio"].shape == (6, 1, 64, 7)
    assert seen(train)["audio"].dtype == torch.float32
    assert seen(train)["visual"].shape == (6, 3, 8, 8)
    assert seen(train)["visual"].dtype == torch.uint8
    assert train.samples == [f"s{number}" for number in range(6)]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert levels(train) == [0, 3, 6, 9, 12, 15]
    assert not data.truth_known
    assert set(train.corrupted) == {""}


def test_the_recipe_states_what_was_done(folder):
    recipe = folder.fill().load().recipe
    for words in ("logmel64", "0.1 s (tile)", "soxr_hq", "8 x 8"):
        assert words in recipe


def test_source_and_recipe_name_no_path_of_this_machine(folder):
    data = folder.fill().load()
    assert str(folder.path.parent) not in data.source + data.recipe + data.name


def test_rows_in_any_order_and_split_give_the_same_samples(folder):
    folder.fill()
    first = folder.load()
    folder.rows.reverse()
    second = folder.load()
    assert second.digest == first.digest
    assert sorted(second.splits["test"].samples) == sorted(first.splits["test"].samples)
    for split in ("train", "val", "test"):
        order = [second.splits[split].samples.index(name) for name in first.splits[split].samples]
        again = second.splits[split].subset(torch.tensor(order))
        assert torch.equal(seen(again)["visual"], seen(first.splits[split])["visual"])
        assert torch.equal(again.labels, first.splits[split].labels)


@pytest.mark.parametrize("name", ["b.flac", "b.ogg", "B.WAV", "mit Leer zeichen.wav", "été 音.wav", "a,b;'c.wav"])
def test_sound_formats_and_names(folder, name):
    folder.fill()
    folder.rows[0]["audio"] = folder.sound(name)
    assert folder.load().counts["train"] == 6


@pytest.mark.parametrize("name", ["b.jpg", "b.jpeg", "B.PNG", "mit Leer zeichen.png", "été 画.jpg"])
def test_image_formats_and_names(folder, name):
    folder.fill()
    folder.rows[0]["visual"] = folder.image(name)
    assert folder.load().counts["train"] == 6


def test_subfolders_are_allowed(folder):
    folder.fill()
    (folder.path / "sub dir").mkdir()
    folder.rows[0]["visual"] = folder.image("sub dir/x.png")
    assert folder.load().counts["train"] == 6


def several(folder):
    for split, labels in {"train": ("cat|dog", "dog", "bird | cat"), "val": ("dog|bird",), "test": ("cat",)}.items():
        for label in labels:
            folder.add(split, label)
    return folder


def test_several_classes_per_sample(folder):
    data = several(folder).load(label_separator="|")
    assert data.several_classes
    assert data.classes == ("bird", "cat", "dog")
    assert data.splits["train"].labels.int().tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 0]]
    assert data.splits["val"].labels.int().tolist() == [[1, 0, 1]]
    assert data.table["label"] == ["cat, dog", "dog", "bird, cat", "dog, bird", "cat"]
    assert [sample.classes for sample in card_samples(data)] == [
        ("cat", "dog"),
        ("dog",),
        ("bird", "cat"),
        ("bird", "dog"),
        ("cat",),
    ]
    assert [sample.label for sample in sheet_samples(data)] == ["bird, cat", "cat, dog", "dog"]
    folder.rows[3]["label"] = "dog"
    assert folder.load(label_separator="|").digest != data.digest


def test_a_forgotten_separator_is_suspected(folder):
    several(folder)
    for label in ("dog|bird", "cat", "bird"):
        folder.add("train", label)
    (warning,) = folder.load().warnings
    assert "the label 'cat|dog' (line 2) is a class of its own, beside 'cat' and 'dog'" in warning
    assert warning.endswith("give label_separator=|, or lists of classes in Python")
    assert folder.load(label_separator="|").warnings == []


def test_labels_with_the_same_signs_that_are_no_other_classes_are_not_suspected(folder):
    assert folder.fill(("rock, hard", "jazz", "drum & bass")).load().warnings == []


def test_several_classes_of_which_each_sample_has_one_are_pointed_out(folder):
    (warning,) = folder.fill().load(label_separator="|").warnings
    assert warning.startswith("every sample has exactly one true class; if the classes exclude each other")


def test_one_class_each_is_another_form_with_a_separator(folder):
    folder.fill()
    plain, formed = folder.load(), folder.load(label_separator="|")
    assert (plain.several_classes, formed.several_classes) == (False, True)
    assert formed.classes == plain.classes
    assert formed.digest != plain.digest


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("cat||dog", "label 'cat||dog': an empty class; remove the separator that is too many"),
        ("cat|", "an empty class"),
        ("dog|cat|dog", "class 'dog' occurs twice"),
        ("cat|fish", "label 'fish' does not occur in the train split"),
    ],
)
def test_several_classes_that_are_wrong_are_named(folder, label, told):
    several(folder).rows[3]["label"] = label
    found = message(folder, label_separator="|")
    assert "line 5, sample 's3'" in found
    assert told in found


def test_a_separator_is_for_manifests():
    with pytest.raises(UserError, match=r"label_separator=\| is for manifests; digits says itself"):
        load_data(
            "digits", seed=0, visual_difficulty=0.5, corruption=Corruption(0.0), protocol="published", modalities=("audio", "visual"),
            label_separator="|", on_error="fail", input_config=OPTIONS, work=DecodeSettings(Path("unused")),
        )  # fmt: skip


def test_targets_of_a_regression_are_refused_in_one_line(folder):
    told = message(folder.fill(("0.5", "-1e1")))
    assert "the labels are numbers with fractions, as '0.5' of sample 's0'" in told
    assert told.endswith("a gap is a difference of probabilities of the true class (regression is not supported)")


@pytest.mark.parametrize(
    "names", [("0", "1"), ("1.0", "2.0"), ("0.5", "many"), ("0.5", "nan"), ("class 0.5", "class 1.5")]
)
def test_numbers_that_may_be_classes_are_classes(folder, names):
    assert folder.fill(names).load().classes == names


def test_byte_order_mark_and_non_ascii_labels(folder):
    folder.encoding = "utf-8-sig"
    assert folder.fill(("été", "猫")).load().classes == ("été", "猫")


def test_other_encodings_are_refused(folder):
    folder.encoding = "latin-1"
    assert "UTF-8" in message(folder.fill(("été", "chat")))


def test_stereo_and_other_rates_are_accepted(folder):
    folder.fill()
    time = np.arange(8820) / 44_100
    soundfile.write(folder.path / "stereo.wav", np.stack([np.sin(3000 * time), np.zeros(8820)], 1), 44_100)
    folder.rows[0]["audio"] = "stereo.wav"
    assert seen(folder.load().splits["train"])["audio"].isfinite().all()


def test_three_modalities_in_the_order_asked_for(folder):
    folder.header.append("depth")
    folder.fill()
    for number, row in enumerate(folder.rows):
        row["depth"] = folder.image(f"depth {number}.png")
    data = folder.load(modalities=("depth", "audio", "visual"))
    assert list(data.specs) == list(seen(data.splits["val"])) == ["depth", "audio", "visual"]
    assert data.specs["depth"].kind == "image"


def test_two_sounds_are_two_modalities(folder):
    folder.header.append("voice")
    folder.fill()
    for number, row in enumerate(folder.rows):
        row["voice"] = folder.sound(f"voice{number}.flac")
    assert [spec.kind for spec in folder.load(modalities=("audio", "voice")).specs.values()] == ["sound", "sound"]


# The manifest as a whole


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv: cannot be read"):
        load(tmp_path / "nowhere.csv", data_dir=tmp_path)


@pytest.mark.parametrize("name", HEADER)
def test_missing_columns_are_named(folder, name):
    folder.fill().header.remove(name)
    assert f"missing column(s) {name}" in message(folder)


def test_double_columns_are_named(folder):
    folder.fill().header.append("label")
    assert "'label' occur more than once" in message(folder)


def test_an_empty_file_and_a_bare_header(folder):
    assert "no rows" in message(folder)
    (folder.path / "manifest.csv").write_text("")
    with pytest.raises(UserError, match="missing column"):
        load(folder.path / "manifest.csv", data_dir=folder.path)


@pytest.mark.parametrize("modalities", [(), ("audio", "audio"), ("label", "audio"), ("audio", "group")])
def test_impossible_modalities(folder, modalities):
    assert "modalities=" in message(folder.fill(), modalities=modalities)


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_one_class_is_refused(folder, on_error):
    assert "at least two classes" in message(folder.fill(("cat",)), on_error=on_error)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_named(folder, split):
    folder.fill(counts=[(name, 3) for name in ("train", "val", "test") if name != split])
    text = message(folder, on_error="skip")
    assert f"no usable rows of split {split}" in text


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_group_in_two_splits_is_a_leak(folder, on_error):
    folder.header.append("group")
    folder.fill()
    folder.rows[1]["group"] = folder.rows[9]["group"] = "speaker 7"
    text = message(folder, on_error=on_error)
    assert "'speaker 7' is in train (line 3) and in test (line 11)" in text


# Single bad rows: (what spoils row 1, which is on line 3, and what the message says)


def zero_bytes(folder, row):
    (folder.path / row["audio"]).write_bytes(b"")


def truncated_image(folder, row):
    path = folder.path / row["visual"]
    path.write_bytes(path.read_bytes()[:60])


def truncated_sound(folder, row):
    path = folder.path / row["audio"]
    path.write_bytes(path.read_bytes()[:1000])


def text_as_image(folder, row):
    (folder.path / row["visual"]).write_text("no picture")


def silent(folder, row):
    soundfile.write(folder.path / row["audio"], np.full(1000, 5e-5), 8000, subtype="FLOAT")


def not_finite(folder, row):
    values = np.ones(1000)
    values[3] = np.nan
    soundfile.write(folder.path / row["audio"], values, 8000, subtype="FLOAT")


def cells(**values):
    return lambda folder, row: row.update(values)


def symbolic_link(folder, row):
    outside = folder.path.parent / "outside.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(outside)
    (folder.path / "link.png").symlink_to(outside)
    row["visual"] = "link.png"


def other_kind(folder, row):
    row["visual"] = folder.sound("sound.wav")


def video(folder, row):
    (folder.path / "clip.mp4").write_bytes(b"x")
    row["visual"] = "clip.mp4"


def gif(folder, row):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder.path / "x.gif")
    row["visual"] = "x.gif"


def a_folder(folder, row):
    (folder.path / "frames").mkdir()
    row["visual"] = "frames"


def a_pipe(folder, row):
    os.mkfifo(folder.path / "pipe.wav")
    row["audio"] = "pipe.wav"


def frames_with(name, put):
    """A folder of two frames, and something else in it."""

    def spoil(folder, row):
        frames = folder.path / "frames"
        frames.mkdir()
        for number in range(2):
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(frames / f"{number}.png")
        put(frames / name)
        row["visual"] = "frames"

    return spoil


def link_outside(path):
    outside = path.parents[2] / "outside.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(outside)
    path.symlink_to(outside)


BAD = {
    "pipe": (a_pipe, "'pipe.wav': not a regular file (it is a pipe)"),
    "frame outside": (
        frames_with("2.png", link_outside),
        "'frames': frame 2.png: a symbolic link that leaves the folder of the manifest",
    ),
    "other link in a folder of frames": (
        frames_with("notes.txt", link_outside),
        "frame notes.txt: a symbolic link that leaves",
    ),
    "frame that is a pipe": (frames_with("2.png", os.mkfifo), "frame 2.png: not a regular file (it is a pipe)"),
    "frame that is a folder": (frames_with("2.png", os.mkdir), "frame 2.png: not a regular file (it is a folder)"),
    "frame that is a link to nothing": (
        frames_with("2.png", lambda path: path.symlink_to("gone.png")),
        "frame 2.png: a symbolic link to nothing",
    ),
    "endless name": (cells(visual="x" * 300), "the path cannot be followed"),
    "missing": (cells(audio="gone.wav"), "'gone.wav': no such file"),
    "zero bytes": (zero_bytes, "empty (0 bytes)"),
    "truncated image": (truncated_image, "cannot be decoded as PNG or JPEG"),
    "truncated sound": (truncated_sound, "truncated"),
    "text as image": (text_as_image, "cannot be decoded as PNG or JPEG"),
    "silent": (silent, "silent"),
    "not finite": (not_finite, "NaN or infinite"),
    "absolute": (cells(visual="/tmp/x.png"), "the path is absolute"),
    "absolute on Windows": (cells(visual="C:\\x.png"), "the path is absolute"),
    "outside": (cells(visual="../x.png"), "leaves the folder"),
    "outside by a link": (symbolic_link, "leaves the folder"),
    "other kind": (other_kind, "contains sound, but column visual contains image"),
    "video": (video, "cannot be opened as video"),
    "folder": (a_folder, "the folder contains no frames"),
    "extension": (gif, "extension '.gif' is not supported"),
    "split": (cells(split="dev"), "split 'dev' is not one of train, val, test"),
    "no label": (cells(label=" "), "nothing in column label"),
    "no file": (cells(audio=""), "nothing in column audio"),
    "same id": (cells(sample="s0"), "the same sample id is on line 2"),
    "unknown label": (cells(label="bird", split="val"), "label 'bird' does not occur in the train split"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_line_sample_and_reason(folder, case):
    spoil, reason = BAD[case]
    row = folder.fill().rows[1]
    spoil(folder, row)
    text = message(folder)
    assert "1 bad row(s): line 3, sample " + repr(row["sample"]) in text
    assert reason in text
    assert "on_error=skip" in text


@pytest.mark.parametrize("case", BAD)
def test_skip_drops_and_counts_a_bad_row(folder, case):
    spoil, reason = BAD[case]
    spoil(folder, folder.fill().rows[1])
    data = folder.load(on_error="skip")
    assert data.counts == {"train": 5, "val": 2, "test": 2, "skipped": 1, "excluded": 0}
    assert len(data.skipped) == 1
    assert reason in data.skipped[0]
    assert data.splits["train"].samples == ["s0", "s2", "s3", "s4", "s5"]
    assert levels(data.splits["train"]) == [0, 6, 9, 12, 15]


def test_a_file_is_named_where_one_is_at_fault(folder):
    zero_bytes(folder, folder.fill().rows[1])
    assert "file '1.wav': the file is empty" in message(folder)


@pytest.mark.parametrize("count", [3, 6])
def test_rows_of_the_wrong_length(folder, count):
    path = folder.fill().write()
    lines = path.read_text("utf-8").splitlines()
    lines[2] = ",".join([*lines[2].split(","), "more"][:count])
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(UserError, match=f"line 3.*{count} cells where the header has 5"):
        load(path, data_dir=folder.path)


def test_the_first_five_bad_rows_and_the_total_are_shown(folder):
    folder.fill(counts=(("train", 5), ("val", 1), ("test", 1)))
    for row in folder.rows[1:8]:
        row["audio"] = "gone.wav"
    text = message(folder)
    assert "7 bad row(s)" in text
    assert text.count("no such file") == 5
    assert "and 2 more" in text
    assert text.index("line 3") < text.index("line 4")


def test_dropping_a_class_drops_its_other_rows(folder):
    folder.fill(("cat", "dog", "emu"))
    for row in folder.rows:
        if row["label"] == "emu" and row["split"] == "train":
            text_as_image(folder, row)
    data = folder.load(on_error="skip")
    assert data.classes == ("cat", "dog")
    assert data.counts == {"train": 6, "val": 2, "test": 2, "skipped": 5, "excluded": 0}
    assert sum("does not occur in the train split" in line for line in data.skipped) == 2
    assert len(data.splits["test"]) == 2


def test_all_rows_bad_is_one_clear_error(folder):
    for row in folder.fill().rows:
        row["audio"] = "gone.wav"
    assert "no usable rows" in message(folder, on_error="skip")


# Files elsewhere


@pytest.fixture
def elsewhere(folder):
    """A data set of which one sample lies elsewhere: its sound by an absolute path, its frames by links, its folder by `..`."""
    outside = folder.path.parent / "disk"
    outside.mkdir()
    row = folder.fill().rows[1]
    (folder.path / row["audio"]).rename(outside / "sound.wav")
    row["audio"] = str(outside / "sound.wav")
    frames = outside / "frames"
    frames.mkdir()
    (folder.path / row["visual"]).rename(outside / "picture.png")
    (frames / "0.png").symlink_to(outside / "picture.png")
    row["visual"] = "../disk/frames"
    return folder


def test_files_elsewhere_are_used_if_the_user_says_so(elsewhere):
    assert (
        "the path is absolute; use a path relative to the manifest, or allow this with allow_outside=true"
        in message(elsewhere)
    )
    data = elsewhere.load(allow_outside=True)
    assert data.counts["skipped"] == 0
    assert levels(data.splits["train"])[1] == 3
    assert data.table["audio_file"][data.table["sample"].index("s1")] == elsewhere.rows[1]["audio"]


def test_where_files_lie_is_not_part_of_the_digest(elsewhere):
    """A link in the folder may take the place of an absolute path."""
    outside = elsewhere.load(allow_outside=True)
    row = elsewhere.rows[1]
    (elsewhere.path / "moved.wav").write_bytes(Path(row["audio"]).read_bytes())
    row["audio"] = "moved.wav"
    assert elsewhere.load(allow_outside=True).digest == outside.digest


def test_files_elsewhere_must_exist_all_the_same(elsewhere):
    elsewhere.rows[1]["audio"] = "/nowhere/x.wav"
    assert "file '/nowhere/x.wav': no such file" in message(elsewhere, allow_outside=True)


def test_a_manifest_that_is_a_pipe_is_refused_without_waiting(folder):
    path = folder.fill().write()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"manifest\.csv: not a regular file \(it is a pipe\)"):
        load(path, data_dir=folder.path)


# Validation carved out of train


def carved(folder, **options):
    data = folder.load(**options)
    return data, {row["sample"]: row for row in folder.rows}


def test_a_stratified_tenth_becomes_validation(folder):
    data, _ = carved(folder.fill(("a", "b"), (("train", 20), ("test", 1))))
    assert torch.bincount(data.splits["val"].labels).tolist() == [2, 2]
    assert torch.bincount(data.splits["train"].labels).tolist() == [18, 18]
    assert data.splits["test"].samples == ["s40", "s41"]
    assert not set(data.splits["val"].samples) & set(data.splits["train"].samples)


def test_a_class_of_one_stays_in_train_and_one_of_two_is_split(folder):
    folder.fill(("a", "b"), (("train", 2), ("test", 1))).add("train", "c")
    data, rows = carved(folder)
    assert Counter(rows[name]["label"] for name in data.splits["train"].samples) == {"a": 1, "b": 1, "c": 1}


def test_the_choice_depends_on_the_seed_not_on_the_order(folder):
    folder.fill(("a", "b"), (("train", 20), ("test", 1)))
    first, again, other = folder.load(seed=0), folder.load(seed=0), folder.load(seed=1)
    assert first.splits["val"].samples == again.splits["val"].samples
    assert first.splits["val"].samples != other.splits["val"].samples
    assert first.digest == again.digest != other.digest
    folder.rows.reverse()
    assert folder.load(seed=0).digest == first.digest


def test_groups_stay_together(folder):
    folder.header.append("group")
    for number in range(40):
        folder.add("train", "ab"[number % 2], group=f"speaker {number // 4}")
    folder.add("test", "a", group="x").add("test", "b", group="x")
    data, rows = carved(folder)
    groups = {name: {rows[sample]["group"] for sample in data.splits[name].samples} for name in ("train", "val")}
    assert not groups["train"] & groups["val"]
    assert torch.bincount(data.splits["val"].labels).tolist() == [2, 2]


def test_groups_too_large_to_carve_are_an_error(folder):
    folder.header.append("group")
    for number in range(20):
        folder.add("train", "ab"[number % 2], group="one and all")
    folder.add("test", "a").add("test", "b")
    assert "add rows of split val" in message(folder)


# Identity


def test_one_changed_byte_changes_the_digest(folder):
    first = folder.fill().load()
    path = folder.path / folder.rows[4]["audio"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert folder.load().digest != first.digest


@pytest.mark.parametrize("change", [{"image_size": 9}, {"clip_seconds": 0.2}, {"modalities": ("visual", "audio")}])
def test_the_recipe_and_the_order_of_modalities_are_part_of_the_digest(folder, change):
    assert folder.fill().load().digest != folder.load(**change).digest


@pytest.mark.parametrize("change", [{"sample": "renamed"}, {"label": "dog"}])
def test_rows_are_part_of_the_digest(folder, change):
    first = folder.fill().load().digest
    folder.rows[0].update(change)
    assert folder.load().digest != first


def test_the_order_of_the_lines_decides_nothing(folder):
    """Neither which sample lies where, nor which are drawn for a part of train: tables by index fit whatever the order."""
    folder.fill(("a", "b", "c"), (("train", 20), ("test", 2)))
    first = folder.load()
    random.Random(0).shuffle(folder.rows)
    other = folder.load()
    assert first.digest == other.digest
    assert first.specs == other.specs
    pairs = [(first, other)]
    pairs += [tuple(data.with_train_fraction(0.3, seed=0) for data in (first, other))]
    pairs += [tuple(data.with_held_out(0.2, seed=0) for data in (first, other))]
    for one, same in pairs:
        for name, split in one.splits.items():
            assert split.samples == sorted(split.samples) == same.splits[name].samples
            assert split.samples_digest == same.splits[name].samples_digest
            assert torch.equal(split.labels, same.splits[name].labels)
            assert levels(split) == levels(same.splits[name])
    parts = {data.splits["train"].samples_digest for data, _ in pairs}
    assert len(parts) == 3, "other samples, another digest"


def test_the_name_of_a_file_is_not(folder):
    first = folder.fill().load().digest
    (folder.path / "0.wav").rename(folder.path / "renamed.wav")
    folder.rows[0]["audio"] = "renamed.wav"
    assert folder.load().digest == first


def test_a_wav_header_that_lies_is_truncation(folder):
    path = folder.path / folder.fill().rows[1]["audio"]
    content = bytearray(path.read_bytes())
    place = content.index(b"data")
    content[place + 4 : place + 8] = struct.pack("<I", 10**6)
    path.write_bytes(content)
    assert "truncated" in message(folder)


def test_load_data_takes_the_path_of_a_manifest(folder):
    path = folder.fill().write()
    data = load_data(
        str(path), seed=0, visual_difficulty=1.0, corruption=Corruption(0.0), protocol="published", modalities=("audio", "visual"),
        on_error="fail", input_config=OPTIONS, work=DecodeSettings(folder.path, progress=False),
    )  # fmt: skip
    assert data.counts["train"] == 6


def test_a_progress_bar_is_shown_on_request(folder, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    folder.fill().load(progress=False)
    assert capsys.readouterr().err == ""
