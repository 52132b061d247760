"""Manifests with columns of arrays: kinds, shapes, statistics, bad rows, corruption, stores."""

import json
import os

import numpy as np
import pytest
import torch

from mm_balance.data import Corruption
from mm_balance.data.card import card_samples
from mm_balance.data.corruption import plant
from mm_balance.data.prepare import _digest
from mm_balance.data.recipe import Recipe
from mm_balance.errors import UserError
from mm_balance.serving import modality_recipes
from mm_balance.serving.example import example_of
from mm_balance.serving.reading import CellError, finish, read_cell
from mm_balance.workflow.card import sheet_samples
from tests.data.test_manifest import message
from tests.helpers.arrays import ArrayFolder
from tests.helpers.manifests import OPTIONS, seen

COLUMNS = ("motion", "words")


@pytest.fixture
def folder(tmp_path):
    """Sequences of 2 features, of 3 to 7 steps in train, and vectors of 4 features."""
    return ArrayFolder(tmp_path).fill()


def test_kinds_shapes_and_values(folder):
    data = folder.load()
    assert [(name, spec.kind, spec.shape) for name, spec in data.specs.items()] == [
        ("motion", "sequence", (7, 2)),
        ("words", "vector", (4,)),
    ]
    for split in data.splits.values():
        for name, values in seen(split).items():
            assert values.dtype == torch.float32
            for sample, value in zip(split.samples, values, strict=True):
                original = folder.arrays[name, sample].astype(np.float32)
                flat = value.numpy() if name == "words" else value.numpy()[: len(original)]
                assert (flat == original[: len(value)]).all()
                assert name == "words" or (value[len(original) :] == 0).all()


def test_statistics_are_per_feature_of_train_without_padding(folder):
    data = folder.load()
    train = data.splits["train"].samples
    steps = np.concatenate([folder.arrays["motion", sample] for sample in train])
    vectors = np.stack([folder.arrays["words", sample] for sample in train])
    for name, values in (("motion", steps), ("words", vectors)):
        spec = data.specs[name]
        assert spec.mean == pytest.approx(values.mean(0), rel=1e-5)
        assert spec.std == pytest.approx(np.where(np.ptp(values, axis=0) == 0, 1, values.std(0)), rel=1e-5)
    assert data.specs["words"].std[3] == 1.0, "a feature that never changes"


def test_image_and_sound_normalization_change_nothing(folder):
    first = folder.load()
    other = folder.load(visual_normalization="imagenet", audio_normalization="none")
    assert first.specs == other.specs


@pytest.mark.parametrize(("steps", "length"), [(None, 7), (3, 3), (12, 12)])
def test_sequences_have_the_length_of_the_longest_in_train_or_the_one_asked_for(folder, steps, length):
    data = folder.load(sequence_steps=steps)
    assert data.specs["motion"].shape == (length, 2)
    assert f"sequence of {length} steps" in data.recipe
    assert "words vector of 4 features, float32" in data.recipe


def test_the_longest_of_train_asked_for_is_the_same_data(folder):
    assert folder.load().digest == folder.load(sequence_steps=7).digest
    assert folder.load().digest != folder.load(sequence_steps=6).digest


def test_arrays_beside_pictures_and_sounds(folder):
    data = folder.load(modalities=("audio", "motion", "visual", "words"))
    assert [spec.kind for spec in data.specs.values()] == ["sound", "sequence", "image", "vector"]
    assert seen(data.splits["test"])["visual"].shape[1:] == (3, 8, 8)


def test_the_digest_covers_every_number(folder):
    before = folder.load().digest
    file = folder.path / folder.rows[0]["words"]
    values = np.load(file)
    values[0] += 1e-3
    np.save(file, values)
    assert folder.load().digest != before


def test_nothing_is_decoded_twice_and_a_kill_loses_nothing(folder):
    data = folder.load()
    journal = (data.folder / "journal.jsonl").read_text()
    assert folder.load().digest == data.digest
    assert (data.folder / "journal.jsonl").read_text() == journal
    lines = (data.folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (data.folder / "journal.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    again = folder.load()
    assert again.digest == data.digest
    for name, values in seen(again.splits["train"]).items():
        assert torch.equal(values, seen(data.splits["train"])[name])


def replaced(column, values, **options):
    def spoil(folder, row):
        np.save(folder.path / row[column], values, **options)

    return spoil


def truncated(folder, row):
    path = folder.path / row["words"]
    os.truncate(path, path.stat().st_size - 4)


def other_extension(folder, row):
    row["words"] = folder.image("x.png")


BAD = {
    "rank": (
        replaced("words", np.ones((2, 4))),
        "contains a sequence (array of shape (2, 4)), where a vector is wanted",
    ),
    "rank of a sequence": (
        replaced("motion", np.ones(2)),
        "contains a vector (array of shape (2,)), where a sequence is",
    ),
    "width": (
        replaced("motion", np.ones((3, 5))),
        "has 5 features, where 2 are wanted, as most files of column motion",
    ),
    "dtype": (replaced("words", np.array(list("abcd"))), "contains <U1, where float or int is wanted"),
    "objects": (replaced("words", np.array([{}] * 4, object), allow_pickle=True), "contains Python objects"),
    "NaN": (replaced("words", np.array([1, np.nan, 2, 3])), "contains NaN or infinite values (the first at feature 1)"),
    "infinite": (replaced("motion", np.array([[1, np.inf]])), "the first at step 0, feature 1"),
    "empty": (replaced("motion", np.ones((0, 2))), "an empty array"),
    "zeros": (replaced("motion", np.zeros((4, 2))), "steps of zeros are padding"),
    "truncated": (truncated, "truncated: 28 of 32 bytes"),
    "a picture": (other_extension, "contains image, but column words contains array"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_array_is_named_or_skipped(folder, case):
    spoil, reason = BAD[case]
    row = folder.rows[1]
    spoil(folder, row)
    text = message(folder)
    assert f"1 bad row(s): line 3, sample {row['sample']!r}, file " in text
    assert reason in text
    data = folder.load(on_error="skip")
    assert data.counts["skipped"] == 1
    assert row["sample"] not in data.splits["train"].samples


def test_a_column_of_bad_arrays_is_one_error(folder):
    for row in folder.rows:
        (folder.path / row["words"]).write_bytes(b"x")
    assert f"{len(folder.rows)} bad row(s)" in message(folder)
    with pytest.raises(UserError, match="no usable rows"):
        folder.load(on_error="skip")


@pytest.mark.parametrize("kind", ["noise", "blank", "other", "mismatch", "mixed"])
def test_corruption_of_arrays(folder, kind):
    clean = folder.load()
    data = plant(clean, Corruption(0.5, kind), OPTIONS, seed=0)
    before, after = seen(clean.splits["train"]), seen(data.splits["train"])
    train = data.splits["train"]
    assert set(train.corrupted) == {"", "motion", "words"}
    for number, (modality, planted) in enumerate(zip(train.corrupted, train.corruption_kind, strict=True)):
        for name in after:
            changed = not torch.equal(after[name][number], before[name][number])
            assert changed == (name == modality)
        if planted == "blank":
            assert (after[modality][number] == 0).all()
    assert data.digest != clean.digest
    if kind == "noise":
        spec = data.specs["words"]
        noise = train.replacements["words"].values[1:]
        assert ((noise.mean(0) - torch.tensor(spec.mean)).abs() < 4 * torch.tensor(spec.std) / 4).all()


def test_the_mixture_of_kinds_has_noise_blanks_and_others(folder):
    data = plant(folder.load(), Corruption(0.5), OPTIONS, seed=0)
    assert set(data.splits["train"].corruption_kind) == {"", "noise", "blank", "other"}


def test_the_card_and_the_sheet_show_arrays(folder):
    data = folder.load()
    samples = card_samples(data)
    assert {sample.array["words"] for sample in samples} == {"4 features of float64"}
    assert {sample.array["motion"] for sample in samples} == {"2 features of float32"}
    assert max(sample.steps["motion"] for sample in samples if sample.split == "train") == 7
    assert "words" not in samples[0].steps
    sheet = sheet_samples(data)[0]
    assert sheet.spectrograms["motion"].shape == (2, 7)
    assert sheet.spectrograms["words"].shape == (4, 1)


def test_a_served_model_reads_arrays_as_training_did(folder, monkeypatch):
    data = folder.load()
    recipes = modality_recipes(data, OPTIONS)
    recipes = {name: type(item).from_json(json.loads(json.dumps(item.to_json()))) for name, item in recipes.items()}
    test, files = data.splits["test"], dict(zip(data.table["sample"], range(len(data.table["sample"])), strict=True))
    for name, recipe in recipes.items():
        paths = [folder.path / data.table[f"{name}_file"][files[sample]] for sample in test.samples]
        arrays = [folder.arrays[name, sample] for sample in test.samples]
        for cells in (paths, [path.read_bytes() for path in paths], arrays, [array.tolist() for array in arrays]):
            made = finish([read_cell(cell, recipe) for cell in cells], recipe)
            assert torch.equal(made, seen(test)[name])
        assert ".npy" in recipe.text()
        assert finish([read_cell(example_of(recipe), recipe)], recipe).shape[1:] == data.specs[name].shape
        with pytest.raises(CellError, match="array"):
            read_cell(np.ones((2, 9)), recipe)
        with pytest.raises(CellError, match=r"give \.npy"):
            read_cell("clip.wav", recipe)
        np.save(folder.path / "bad.npy", np.array([[np.nan] * 2]) if name == "motion" else np.ones(9))
        with pytest.raises(CellError, match=r"NaN|9 features"):
            read_cell(folder.path / "bad.npy", recipe)


# What identifies stores and data of sounds and images, as it was before there were arrays: they stay valid.

OLD = Recipe(
    audio="logmel64", clip_seconds=0.2, audio_fit="tile", resampler="soxr_hq", per_sample=False, frames_per_second=10.0,
    frame_count=2, frame_edge=8,
)  # fmt: skip
OLD_KINDS = {"audio": "sound", "visual": "image"}


def test_stores_and_digests_of_sounds_and_images_stay_valid():
    assert OLD.key(OLD_KINDS) == "53829e2bad8b"
    assert OLD.text(OLD_KINDS) == (
        "files-2: audio mono, logmel64, 0.2 s (tile), resampler soxr_hq; visual RGB, squeezed to 8 x 8 (bilinear, antialiased), up to "
        "2 frame(s) at 10 per second"
    )
    assert json.dumps(OLD.settings()) == (
        '{"audio": "logmel64", "clip_seconds": 0.2, "audio_fit": "tile", "resampler": "soxr_hq", "per_sample": false, '
        '"frames_per_second": 10.0, "frame_count": 2, "frame_edge": 8}'
    )
    table = {
        "sample": ["b", "a"], "split": ["train", "test"], "label": ["x", "y"], "audio_sha256": ["1", "2"],
        "visual_sha256": ["3", "4"],
    }  # fmt: skip
    digest = _digest(table, tuple(OLD_KINDS), OLD.text(OLD_KINDS))
    assert digest == "c9c16cd3b3b38bc46f9e5152a847a8bfd9b776f2414121f137cadb2c928920d3"
