"""From raw downloads and manifests of videos to what the network sees; nothing is lost or dropped without a word."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from mm_balance.config import InputConfig
from mm_balance.data import BatchLoader, Corruption, DecodeSettings, load_data, load_manifest, prepare_raw
from mm_balance.data.dataset import channel_statistics
from mm_balance.data.prepare import AUDIOSET, IMAGENET
from mm_balance.errors import UserError
from tests.helpers.media import tone, write_video
from tests.helpers.raw import cremad_clips, make_ave, make_cremad

OPTIONS = InputConfig(
    recipe="stft257", clip_seconds=3.0, audio_fit="tile", resampler="soxr_hq", audio_normalization="none", image_size=28,
    frames=1, frames_per_second=1.0, frame_choice="random", augment="resized_crop_flip", visual_normalization="imagenet",
)  # fmt: skip
CPU = torch.device("cpu")


def work(tmp_path, **options):
    return DecodeSettings(tmp_path / "data", **{"workers": 1, "progress": False, **options})


def load(name, tmp_path, *, protocol="published", on_error="skip", modalities=("audio", "visual"), **options):
    return load_data(
        name, seed=0, visual_difficulty=1.0, corruption=Corruption(0.0), protocol=protocol, modalities=modalities, on_error=on_error,
        input_config=replace(OPTIONS, **options), work=work(tmp_path),
    )  # fmt: skip


def some_clips(count=60):
    """Clips of all emotions from both lists."""
    clips = cremad_clips()
    return clips[:count] + clips[6698 : 6698 + count // 3]


@pytest.fixture
def cremad(tmp_path):
    return make_cremad(tmp_path / "CREMA-D", clips=some_clips())


def prepare(tmp_path, source, *, protocol="published", on_error="skip", name="cremad", **options):
    prepare_raw(
        name,
        source,
        protocol=protocol,
        on_error=on_error,
        input_config=replace(OPTIONS, **options),
        work=work(tmp_path),
    )


def test_cremad_from_the_download_to_batches(tmp_path, cremad):
    prepare(tmp_path, cremad)
    data = load("cremad", tmp_path)
    assert data.classes == ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    assert {name: spec.shape for name, spec in data.specs.items()} == {"audio": (1, 257, 188), "visual": (3, 28, 28)}
    assert (data.specs["visual"].mean, data.specs["visual"].std) == IMAGENET
    assert (data.specs["audio"].mean, data.specs["audio"].std) == ((0.0,), (1.0,))
    assert data.counts["train"] + data.counts["val"] == 60
    assert data.counts["val"] == pytest.approx(6, abs=2)
    assert data.counts["test"] == 20
    assert data.counts["skipped"] == 7442 - 3 - 80
    assert len(data.lists) == 2
    assert data.table["voice_vote"] == ["A"] * 80
    batch = next(iter(BatchLoader(data.splits["train"], 8, seed=1).epoch(0, CPU)))
    assert {name: tuple(value.shape) for name, value in batch.inputs.items()} == {
        "audio": (8, 1, 257, 188), "visual": (8, 3, 28, 28),
    }  # fmt: skip
    assert batch.inputs["audio"].std() > 0.5


def test_preparing_again_does_nothing_and_the_download_may_go(tmp_path, cremad):
    prepare(tmp_path, cremad)
    store = load("cremad", tmp_path).folder
    before = {path.name: path.stat().st_mtime_ns for path in store.glob("*.npy")}
    prepare(tmp_path, cremad)
    assert {path.name: path.stat().st_mtime_ns for path in store.glob("*.npy")} == before
    cremad.rename(tmp_path / "elsewhere")
    assert load("cremad", tmp_path).counts["test"] == 20


def test_another_split_decodes_nothing_anew_and_keeps_speakers_apart(tmp_path, cremad, monkeypatch):
    prepare(tmp_path, cremad)
    published = load("cremad", tmp_path)
    monkeypatch.setattr("mm_balance.data.decoding._decode_clip", None)
    prepare(tmp_path, cremad, protocol="speaker")
    data = load("cremad", tmp_path, protocol="speaker")
    assert data.folder == published.folder
    assert data.digest != published.digest
    split_of = {}
    for split, actor in zip(data.table["split"], data.table["actor"], strict=True):
        assert split_of.setdefault(actor, split) == split


def test_what_is_missing_stops_unless_told_otherwise(tmp_path, cremad):
    with pytest.raises(UserError, match=r"7359 bad row.*no file in AudioWAV/\*\.wav nor in VideoFlash.*on_error=skip"):
        prepare(tmp_path, cremad, on_error="fail")
    with pytest.raises(UserError, match=r"7359 clip.*could not be prepared.*on_error=skip"):
        load("cremad", tmp_path, on_error="fail")
    assert load("cremad", tmp_path).counts["skipped"] == 7359, "what was decoded was kept"


def test_the_official_download_with_its_known_bad_clips_passes_without_skipping(tmp_path, monkeypatch):
    from mm_balance.data.readers import cremad as reader

    clips = [*some_clips(30), *reader.KNOWN_BAD]
    monkeypatch.setattr(reader, "shipped_list", lambda name, expected: (
        "".join(f"{clip},{clip.split('_')[2]}\n" for number, clip in enumerate(clips) if (number % 4 == 0) == ("test" in name)), "0",
    ))  # fmt: skip
    source = make_cremad(tmp_path / "CREMA-D", clips=clips)
    for clip in reader.KNOWN_BAD:  # as they are in the real download
        (source / "AudioWAV" / f"{clip}.wav").unlink()
        soundfile.write(source / "AudioWAV" / f"{clip}.wav", np.zeros(10), 16_000)
    prepare(tmp_path, source, on_error="fail")
    data = load("cremad", tmp_path, on_error="fail")
    assert data.counts["excluded"] == 3
    assert data.counts["skipped"] == 0
    assert set(data.table["sample"]) == set(some_clips(30))


def test_what_is_not_prepared_says_how_to(tmp_path, cremad):
    with pytest.raises(
        UserError, match=r"not prepared.*-e prepare -P dataset=cremad -P protocol=published -P source=FOLDER"
    ):
        load("cremad", tmp_path)
    prepare(tmp_path, cremad)
    with pytest.raises(UserError, match=r"not prepared with this recipe.*20 s"):
        load("cremad", tmp_path, clip_seconds=20.0)
    with pytest.raises(UserError, match="ave supports only published"):
        load("ave", tmp_path, protocol="speaker")


def test_ave_has_ten_frames_of_which_three_are_seen(tmp_path, monkeypatch):
    from mm_balance.data.readers import ave

    source = make_ave(tmp_path / "AVE_Dataset")
    for name, _ in ave.LISTS.values():  # a part of each list, decoding four thousand clips takes minutes
        lines = (source / name).read_text("utf-8").splitlines()
        (source / name).write_text("\n".join(lines[:: max(1, len(lines) // 40)]) + "\n", "utf-8")
    options = {
        "recipe": "fbank128", "clip_seconds": 10.24, "audio_fit": "pad", "audio_normalization": "audioset", "frames": 3
    }  # fmt: skip
    prepare(tmp_path, source, name="ave", on_error="fail", **options)
    data = load("ave", tmp_path, on_error="fail", **options)
    assert data.specs["visual"].shape == (3, 3, 28, 28)
    assert data.specs["audio"].shape == (1, 128, 1024)
    assert (data.specs["audio"].mean, data.specs["audio"].std) == AUDIOSET
    assert data.splits["train"].inputs["visual"].shape[1:] == (10, 32, 32, 3)
    batch = next(iter(BatchLoader(data.splits["val"], 4).ordered(CPU)))
    assert batch.inputs["visual"].shape == (4, 3, 3, 28, 28)
    stacked = load("ave", tmp_path, on_error="fail", **options, frames_as="channels")
    assert stacked.specs["visual"].shape == (9, 28, 28)
    assert stacked.specs["visual"].mean == IMAGENET[0] * 3
    same = next(iter(BatchLoader(stacked.splits["val"], 4).ordered(CPU)))
    assert torch.equal(same.inputs["visual"], batch.inputs["visual"].flatten(1, 2))


@pytest.fixture
def films(tmp_path):
    """A manifest of videos with sound: the level of a frame tells clip and time."""
    folder = tmp_path / "films"
    folder.mkdir()
    lines = ["sample,split,label,audio,visual"]
    for number in range(12):
        write_video(folder / f"{number}.mp4", seconds=2.0, rate=10, frequency=300 + 50 * number)
        split = "train" if number < 8 else "val" if number < 10 else "test"
        lines.append(f"{number},{split},{'ab'[number % 2]},{number}.mp4,{number}.mp4")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def manifest(path, tmp_path, *, on_error="fail", modalities=("audio", "visual"), **options):
    return load_manifest(
        path,
        modalities=modalities,
        seed=0,
        on_error=on_error,
        input_config=replace(OPTIONS, **options),
        work=work(tmp_path),
    )


def test_videos_with_sound_train_through_a_manifest(tmp_path, films):
    data = manifest(
        films, tmp_path, recipe="logmel64", frames=2, clip_seconds=2.0, augment="none", frames_per_second=2.0
    )
    assert data.splits["train"].inputs["visual"].shape[1:] == (4, 28, 28, 3)
    (batch,) = BatchLoader(data.splits["test"], 4).ordered(CPU)
    assert batch.inputs["visual"].shape == (2, 2, 3, 28, 28)
    seen = batch.inputs["visual"].float().mean((2, 3, 4))
    assert seen[0].tolist() == pytest.approx([15, 25], abs=2.5), "frames at 0.5 and 1.5 s: the middles of both halves"


def test_training_is_random_by_place_alone(tmp_path, films):
    data = manifest(films, tmp_path, clip_seconds=2.0, frames_per_second=5.0)
    loader = BatchLoader(data.splits["train"], 3, seed=4)
    whole = list(loader.epoch(2, CPU))
    rest = list(loader.epoch(2, CPU, start_batch=1))
    for one, other in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    again = list(BatchLoader(data.splits["train"], 3, seed=4).epoch(3, CPU))
    order = torch.cat([batch.index for batch in again]).argsort()
    other = torch.cat([batch.index for batch in whole]).argsort()
    assert not torch.equal(
        torch.cat([batch.inputs["visual"] for batch in again])[order],
        torch.cat([batch.inputs["visual"] for batch in whole])[other],
    ), "another epoch, other crops"


def test_statistics_of_the_training_split_are_those_of_its_pixels(tmp_path, films):
    data = manifest(
        films, tmp_path, clip_seconds=2.0, augment="none", visual_normalization="train", audio_normalization="train",
        frames=2,
    )  # fmt: skip
    train = data.splits["train"]
    stored = {name: value[train.rows[name]] for name, value in train.inputs.items()}
    mean, std = channel_statistics(stored["audio"], channel=1)
    assert data.specs["audio"].mean == pytest.approx(mean, rel=1e-5)
    assert data.specs["audio"].std == pytest.approx(std, rel=1e-4)
    mean, std = channel_statistics(stored["visual"].flatten(0, 1), channel=3)
    assert data.specs["visual"].mean == pytest.approx(mean, rel=1e-5)
    assert data.specs["visual"].std == pytest.approx(std, rel=1e-4)


def test_sounds_beside_frames_and_a_share_of_the_data(tmp_path, films):
    folder = films.parent
    lines = films.read_text().splitlines()
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", tone(1.0, 16_000), 16_000)
    films.write_text("\n".join(line.replace(".mp4", ".wav", 1) for line in lines))
    data = manifest(films, tmp_path, clip_seconds=1.0)
    half = data.with_train_fraction(0.5, seed=0)
    assert len(half.splits["train"]) == 4
    batch = next(iter(BatchLoader(half.splits["train"], 4).ordered(CPU)))
    whole = next(iter(BatchLoader(data.splits["train"], 8).ordered(CPU)))
    places = [data.splits["train"].samples.index(name) for name in half.splits["train"].samples]
    assert torch.equal(batch.inputs["visual"], whole.inputs["visual"][places])


def test_choices_that_contradict_each_other_are_refused(tmp_path, films):
    with pytest.raises(UserError, match="audioset has constants for recipe=fbank128 only"):
        manifest(films, tmp_path, audio_normalization="audioset")
    with pytest.raises(UserError, match="recipe=embedded is for digits only"):
        manifest(films, tmp_path, recipe="embedded")


def test_z_scores_of_each_sample(tmp_path, films):
    data = manifest(films, tmp_path, audio_normalization="sample", clip_seconds=2.0)
    (batch,) = BatchLoader(data.splits["test"], 4).ordered(CPU)
    assert batch.inputs["audio"].mean((1, 2, 3)).abs().max() < 1e-3
    assert batch.inputs["audio"].std((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    assert "z-score" in data.recipe
