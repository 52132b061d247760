"""The embedded set: golden facts, planted corruption, and what each parameter touches."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

import mm_balance.data.digits as module
from mm_balance.data import Corruption, load_data
from mm_balance.data.digits import FOLDER, load_digits
from mm_balance.errors import UserError

INDEX = json.loads((FOLDER / "index.json").read_text("utf-8"))
MODALITIES = ("audio", "visual")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def clean():
    """No corruption and clean images: differs from the default in both parameters."""
    return load_digits(visual_difficulty=0.0, corruption=Corruption(0.0))


def fingerprint(values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def test_sizes_and_kinds(digits):
    assert digits.counts == {"train": 3500, "val": 500, "test": 1000, "skipped": 0, "corrupted": 350}
    assert digits.classes == tuple("0123456789")
    assert list(digits.specs) == ["audio", "visual"], "audio leads the gap"
    assert digits.truth_known
    for name, split in digits.splits.items():
        assert len(split) == digits.counts[name]
        assert split.inputs["audio"].shape == (len(split), 1, 40, 64)
        assert split.inputs["visual"].shape == (len(split), 1, 36, 36)
        assert torch.bincount(split.labels).unique().numel() == 1, "stratified"
        for value in split.inputs.values():
            assert value.dtype == torch.float32
            assert value.isfinite().all()


def test_counts_are_those_of_the_part_that_is_trained_on(digits):
    for part in (digits.with_train_fraction(0.15, seed=0), digits.with_held_out(0.1, seed=0)):
        train = part.splits["train"]
        assert part.counts["train"] == len(train)
        assert part.counts["corrupted"] == sum(name != "" for name in train.corrupted) < 350


def test_golden_labels_and_corruption(digits):
    train = digits.splits["train"]
    assert fingerprint({name: split.labels.tolist() for name, split in digits.splits.items()}) == "e528f10292dde13d"
    assert fingerprint([train.corrupted, train.corruption_kind]) == "33b1b7b171016e22"
    assert digits.digest == "3104d1acb2d93de2e3948a1076ab98b5e35db9971b3b973326262de96af9aa44"


def test_golden_statistics(digits):
    """Means and spreads, not bytes: Vorbis and Fourier transforms differ in the last bits between platforms."""
    audio, visual = digits.specs["audio"], digits.specs["visual"]
    assert (audio.mean[0], audio.std[0]) == pytest.approx((-5.025, 1.394), abs=0.01)
    assert (visual.mean[0], visual.std[0]) == pytest.approx((0.0805, 0.2841), abs=0.001)


def test_voices_images_and_ids_are_disjoint_between_splits(digits):
    names = {"tr": "train", "va": "val", "te": "test"}
    voices, images = {}, {}
    for split, voice, image in zip(INDEX["split"], INDEX["voice"], INDEX["image"], strict=True):
        voices.setdefault(names[split], set()).add(INDEX["voice_names"][voice])
        images.setdefault(names[split], set()).add(image)
    assert {split: len(found) for split, found in images.items()} == {"train": 3500, "val": 500, "test": 1000}
    assert sum(map(len, voices.values())) == len(set.union(*voices.values()))
    assert {split: sorted(found) for split, found in voices.items()} == INDEX["voices"]
    ids = {name for split in digits.splits.values() for name in split.samples}
    assert len(ids) == 5000


def test_utterances_do_not_overlap():
    ends = [start + length for start, length in zip(INDEX["start"], INDEX["length"], strict=True)]
    assert all(end < start for end, start in zip(ends, INDEX["start"][1:], strict=False))
    assert max(INDEX["length"]) <= module.CLIP


def test_classes_sound_different(clean):
    """The mean spectrogram of every class is nearest to that of the same class spoken by voices never heard."""
    train, test = clean.splits["train"], clean.splits["test"]
    means = [torch.stack([split.inputs["audio"][split.labels == digit].mean(0).flatten() for digit in range(10)])
             for split in (train, test)]  # fmt: skip
    assert torch.cdist(means[1], means[0]).argmin(dim=1).tolist() == list(range(10))


def test_two_loads_are_equal_to_the_last_bit(digits):
    again = load_digits()
    assert again.digest == digits.digest
    for name, split in digits.splits.items():
        other = again.splits[name]
        assert (other.samples, other.corrupted, other.corruption_kind) == (
            split.samples, split.corrupted, split.corruption_kind,
        )  # fmt: skip
        assert all(torch.equal(other.inputs[modality], split.inputs[modality]) for modality in MODALITIES)


def test_corruption_counts_are_exact_and_even(digits):
    train = digits.splits["train"]
    assert Counter(train.corrupted) == {"": 3150, "audio": 175, "visual": 175}
    kinds = Counter(zip(train.corrupted, train.corruption_kind, strict=True))
    assert kinds == {
        ("", ""): 3150, ("audio", "noise"): 59, ("audio", "blank"): 58, ("audio", "other"): 58,
        ("visual", "noise"): 88, ("visual", "other"): 87,
    }  # fmt: skip
    for modality in MODALITIES:
        classes = Counter(
            int(label) for label, where in zip(train.labels, train.corrupted, strict=True) if where == modality
        )
        assert set(classes.values()) <= {17, 18}
    for name in ("val", "test"):
        assert set(digits.splits[name].corrupted) == set(digits.splits[name].corruption_kind) == {""}


def test_difficulty_and_corruption_touch_only_what_they_name(digits, clean):
    """Sounds differ only where they were corrupted; images differ everywhere, for the difficulty differs."""
    for name, split in digits.splits.items():
        other = clean.splits[name]
        assert torch.equal(split.labels, other.labels)
        spoilt = torch.tensor([where == "audio" for where in split.corrupted])
        same = (split.inputs["audio"] == other.inputs["audio"]).flatten(1).all(1)
        assert torch.equal(same, ~spoilt)
        assert not (split.inputs["visual"] == other.inputs["visual"]).flatten(1).all(1).any()


def test_clean_images_are_clean(clean):
    for split in clean.splits.values():
        assert float(split.inputs["visual"].min()) >= 0.0
        assert float(split.inputs["visual"].max()) <= 1.0 + 1e-5
        assert float(split.inputs["visual"][..., :4].max()) < 1e-5, "28 px centered on 36 leave a border of 4"


def test_corrupted_samples_are_what_they_are_called(digits):
    train = digits.splits["train"]

    def chosen(modality, kind):
        pairs = zip(train.corrupted, train.corruption_kind, strict=True)
        return train.inputs[modality][[pair == (modality, kind) for pair in pairs]]

    assert chosen("audio", "blank").unique().numel() == 1
    # The loudest band of noise alone stays far below that of a word in noise.
    assert chosen("audio", "noise").amax((1, 2, 3)).max() < chosen("audio", "other").amax((1, 2, 3)).median()
    assert chosen("visual", "noise").max() < 1.0
    assert chosen("visual", "other").amax((1, 2, 3)).min() > 0.9


def test_pieces_come_from_the_same_split():
    """Tiles that are 1 in train and 0.5 elsewhere show where every piece came from."""
    split = torch.tensor([0, 0, 0, 1, 1, 1]).numpy().astype(str)
    tiles = torch.where(torch.arange(6) < 3, 1.0, 0.5).view(-1, 1, 1).expand(6, 28, 28).numpy()
    pieces = module._pieces(tiles, split, module.generator_for(0, "test"))
    assert pieces.amax((1, 2)).tolist() == [1.0] * 3 + [0.5] * 3
    areas = (pieces > 0).sum((1, 2)).sqrt()
    assert ((areas >= 8) & (areas <= 12)).all()


def test_difficulty_is_continuous():
    tiles = torch.rand(20, 28, 28, generator=torch.Generator().manual_seed(0)).numpy()
    none = torch.zeros(20, dtype=torch.bool).numpy()
    planned = module._Planned(none, none, torch.arange(20).numpy())
    split = torch.zeros(20).numpy().astype("U5")

    def images(difficulty):
        return module._visual(tiles, planned, split, difficulty, 0)

    steps = [float((images(level + 1e-3) - images(level)).abs().max()) for level in (0.0, 0.3, 0.7, 0.999)]
    assert 0.0 < max(steps) < 0.05
    assert torch.equal(images(0.4), images(0.4))


@pytest.mark.parametrize("kind", ["noise", "blank", "other", "mismatch", "label"])
def test_every_kind_of_corruption_reaches_the_signals(kind, clean):
    """Against the same data without it: of 40 %, half in each modality; or in the labels."""
    corrupted = load_digits(visual_difficulty=0.0, corruption=Corruption(0.4, kind)).splits["train"]
    intact = clean.splits["train"]
    for modality in MODALITIES:
        planted = torch.tensor([name == modality for name in corrupted.corrupted])
        assert planted.sum() == (0 if kind == "label" else 700)
        changed = (corrupted.inputs[modality] != intact.inputs[modality]).flatten(1).any(1)
        assert torch.equal(changed, planted)
        if kind == "blank":
            assert corrupted.inputs[modality][planted].unique().numel() == 1
    wrong = torch.tensor([name == "label" for name in corrupted.corrupted])
    assert torch.equal(corrupted.labels != intact.labels, wrong)
    assert wrong.sum() == (1400 if kind == "label" else 0)


def test_the_digest_tells_data_apart(digits, clean):
    assert len(digits.digest) == 64
    others = [Corruption(0.1, "noise"), Corruption(0.1, modality="audio"), Corruption(0.2)]
    assert len({digits.digest, clean.digest, *(load_digits(corruption=other).digest for other in others)}) == 5


def test_shipped_files_are_small_and_state_their_origin():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_000_000
    assert set(INDEX["licences"]) == set(INDEX["sha256"])
    assert "eSpeak NG" in INDEX["speech"]
    assert "MNIST" in INDEX["handwriting"]
    for name, expected in INDEX["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "embedded"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setattr(module, "FOLDER", folder)
    return folder


@pytest.mark.parametrize("name", ["speech.ogg", "handwriting.png"])
def test_a_changed_file_is_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[1000] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is not the file that was shipped"):
        load_digits()


@pytest.mark.parametrize("name", ["speech.ogg", "handwriting.png", "index.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        load_digits()


@pytest.mark.parametrize("text", ["", "{}", "[]", "{"])
def test_a_broken_index_is_named(copied, text):
    (copied / "index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json is not the file"):
        load_digits()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"visual_difficulty": -0.1}, "visual_difficulty"),
        ({"visual_difficulty": 1.1}, "visual_difficulty"),
        ({"visual_difficulty": float("nan")}, "visual_difficulty"),
    ],
)
def test_values_out_of_range_are_refused(options, name):
    with pytest.raises(UserError, match=name):
        load_digits(**options)


OPTIONS = {
    "seed": 0, "visual_difficulty": 1.0, "corruption": Corruption(0.1), "protocol": "published", "modalities": MODALITIES,
    "on_error": "fail", "input_config": None, "work": None,
}  # fmt: skip


def test_unknown_names_list_the_choices():
    with pytest.raises(
        UserError, match=r"mnist.*digits, grid, cremad, ave, kinetics_sounds or the path of a manifest\.csv"
    ):
        load_data("mnist", **OPTIONS)


def test_digits_has_two_modalities():
    with pytest.raises(UserError, match="modalities"):
        load_data("digits", **{**OPTIONS, "modalities": ("audio", "visual", "text")})


def test_the_digest_knows_the_recipe(digits, monkeypatch):
    """Another noise level is other data, though no file differs."""
    monkeypatch.setattr(module, "SNR", (0.0, 10.0))
    assert module.load_digits().digest != digits.digest
