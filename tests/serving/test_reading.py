"""What a served model makes of files is what training made of them, to the last bit."""

import base64
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm_balance.data.digits import LOUDNESS
from mm_balance.data.logmel import log_mel
from mm_balance.serving import ModalityRecipe, modality_recipes
from mm_balance.serving.example import example_of
from mm_balance.serving.reading import CellError, finish, read_cell
from mm_balance.testing import tiny_data
from tests.helpers.digits import kept
from tests.helpers.manifests import OPTIONS, NoisyFolder, files_of, seen
from tests.helpers.media import write_video


def recipes_of(data, **options):
    """The recipes as a model finds them: through JSON."""
    made = modality_recipes(data, replace(OPTIONS, **options))
    saved = json.loads(json.dumps({name: recipe.to_json() for name, recipe in made.items()}))
    assert {name: ModalityRecipe.from_json(item) for name, item in saved.items()} == made
    return {name: ModalityRecipe.from_json(item) for name, item in saved.items()}


def check_parity(folder, **options):
    data = folder.load(**options)
    recipes = recipes_of(data, **options)
    for split in ("train", "test"):
        expected = seen(data.splits[split])
        for modality, recipe in recipes.items():
            files = files_of(data, folder, split, modality)
            found = finish([read_cell(path, recipe) for path in files], recipe)
            assert found.dtype == expected[modality].dtype
            assert torch.equal(found, expected[modality]), f"{split} {modality}"
            assert tuple(found.shape[1:]) == recipe.shape == data.specs[modality].shape
    return data, recipes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recipe": "stft257", "audio_fit": "pad", "audio_normalization": "sample", "clip_seconds": 0.3},
        {
            "recipe": "fbank128",
            "audio_fit": "pad",
            "audio_normalization": "audioset",
            "visual_normalization": "imagenet",
        },
        {"augment": "resized_crop_flip", "image_size": 16, "resampler": "polyphase"},
    ],
    ids=["logmel64", "stft257", "fbank128", "larger store"],
)
def test_sounds_and_pictures(tmp_path, options):
    check_parity(NoisyFolder(tmp_path).fill(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 2, "frame_choice": "random"},
        {"frames": 3, "frame_choice": "segment_start", "frames_as": "channels", "augment": "crop_flip"},
        {"frames": 1, "frame_choice": "first"},
    ],
    ids=["frames", "stacked", "one frame"],
)
def test_videos_with_their_sound(tmp_path, options):
    folder = NoisyFolder(tmp_path)
    for number, split in enumerate(("train", "train", "train", "train", "val", "test")):
        video = write_video(folder.path / f"{number}.mp4", seconds=0.6 + 0.1 * number, frequency=300 + 50 * number).name
        folder.add(split, ("cat", "dog")[number % 2], audio=video, visual=video)
    folder.add("test", "dog", audio=video, visual=video)
    data, recipes = check_parity(folder, clip_seconds=1.0, image_size=12, **options)
    assert recipes["visual"].decoding.frame_count == 10
    assert data.specs["visual"].shape == recipes["visual"].shape


def test_bytes_and_text_are_read_like_the_file(tmp_path):
    folder = NoisyFolder(tmp_path).fill()
    data = folder.load()
    for modality, recipe in recipes_of(data).items():
        path = files_of(data, folder, "test", modality)[0]
        content = path.read_bytes()
        text = base64.b64encode(content).decode()
        cells = [path, str(path), content, f"data:;base64,{text}", f"data:media/type;base64,{text}"]
        found = finish([read_cell(cell, recipe) for cell in cells], recipe)
        assert all(torch.equal(item, found[0]) for item in found)


@pytest.mark.parametrize("extension", [".flac", ".ogg", ".mp4", ".mkv", ".mpg"])
def test_the_format_of_bytes_is_recognized(tmp_path, extension):
    folder = NoisyFolder(tmp_path).fill()
    recipe = recipes_of(folder.load())["audio"]
    path = tmp_path / f"sound{extension}"
    if extension in (".flac", ".ogg"):
        soundfile.write(path, 0.3 * np.sin(np.arange(8000) / 5), 8000)
    else:
        write_video(path)
    assert np.array_equal(read_cell(path.read_bytes(), recipe).values, read_cell(path, recipe).values)


def test_a_folder_of_frames(tmp_path):
    folder = NoisyFolder(tmp_path).fill()
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        Image.fromarray(np.full((9, 9, 3), 50 * number, np.uint8)).save(frames / f"frame{number}.png")
    recipe = recipes_of(folder.load())["visual"]
    assert finish([read_cell(frames, recipe)], recipe).unique().tolist() == [0]  # the first frame: the model sees one


def test_files_and_arrays_may_be_mixed(tmp_path):
    folder = NoisyFolder(tmp_path).fill()
    data = folder.load()
    for modality, recipe in recipes_of(data).items():
        first = files_of(data, folder, "test", modality)[0]
        expected = seen(data.splits["test"])[modality]
        array = expected[1].numpy()
        for cell in (array, array.tolist(), expected[1]):
            found = finish([read_cell(first, recipe), read_cell(cell, recipe)], recipe)
            scale = 255 if expected.dtype == torch.uint8 else 1
            assert torch.equal(found, expected.float() / scale)
        assert torch.equal(finish([read_cell(array, recipe)], recipe)[0], expected[1])
    assert finish([read_cell(np.full(recipe.shape, 0.5), recipe)], recipe).dtype == torch.float32  # fractions of 1


def test_digits_are_made_of_a_sound_and_a_picture_without_the_noise(tmp_path):
    data = kept(visual_difficulty=0.0)
    recipes = recipes_of(data, recipe="embedded")
    wave = np.random.default_rng(0).standard_normal(6400).astype(np.float32)
    wave *= LOUDNESS / np.sqrt(np.square(wave).mean())
    soundfile.write(tmp_path / "quiet.wav", 0.5 * wave, 8000, subtype="FLOAT")
    found = finish([read_cell(tmp_path / "quiet.wav", recipes["audio"])], recipes["audio"])
    expected = log_mel(torch.from_numpy(wave)[None], rate=8000, window=256, hop=100, bands=40)[..., :64]
    assert torch.allclose(found, expected, atol=1e-5)

    pixels = data.splits["test"].inputs["visual"][7, 0]
    Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()).save(tmp_path / "digit.png")
    found = finish([read_cell(tmp_path / "digit.png", recipes["visual"])], recipes["visual"])
    assert (found[0, 0] - pixels).abs().max() <= 0.5 / 255 + 1e-6


def test_the_range_of_training_is_that_of_its_inputs(tmp_path):
    """From the table of the store, without reading a clip; here, where store and input have the same size, exactly."""
    folder = NoisyFolder(tmp_path).fill()
    data = folder.load()
    inputs = seen(data.splits["train"])
    for modality, recipe in recipes_of(data).items():
        spec = data.specs[modality]
        values = inputs[modality].double() / (255 if modality == "visual" else 1)
        mean, std = (torch.tensor(item, dtype=torch.float64).view(-1, 1, 1) for item in (spec.mean, spec.std))
        normalized = ((values - mean) / std).flatten(1)
        level, spread = normalized.mean(1), normalized.std(1, correction=0)
        assert recipe.training.level == pytest.approx((level.min().item(), level.max().item()))
        assert recipe.training.spread == pytest.approx((spread.min().item(), spread.max().item()))
    audio = recipes_of(data)["audio"].training
    assert (audio.seconds, audio.rate) == ((0.2, 0.2), (8000, 8000))


def test_deliberately_corrupted_samples_are_no_part_of_the_range():
    blank = modality_recipes(kept(), replace(OPTIONS, recipe="embedded"))["audio"]
    assert blank.training.spread[0] > 0.3  # planted silence has a spread of zero


def refusal(cell, recipe):
    with pytest.raises(CellError) as error:
        read_cell(cell, recipe)
    return str(error.value)


def test_refusals_say_what_to_do(tmp_path, monkeypatch):
    folder = NoisyFolder(tmp_path).fill()
    recipes = recipes_of(folder.load())
    audio, visual = recipes["audio"], recipes["visual"]
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(tmp_path / "slow.wav", np.sin(np.arange(100)), 3)
    (tmp_path / "text.png").write_text("no picture")
    picture = folder.path / "0.png"
    assert "silent: no sample above" in refusal(tmp_path / "silent.wav", audio)
    assert "a sampling rate of 3 Hz, which no sound has" in refusal(tmp_path / "slow.wav", audio)
    os.mkfifo(tmp_path / "pipe.wav")
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file (it is a pipe)" in refusal(tmp_path / "pipe.wav", audio)
    assert "not a regular file (it is a pipe)" in refusal(tmp_path / "pipe.png", visual)
    assert "extension '.png', where a sound is wanted; give .wav" in refusal(picture, audio)
    assert "cannot be read (No such file or directory)" in refusal("missing.wav", audio)
    assert "cannot be decoded as PNG or JPEG" in refusal(tmp_path / "text.png", visual)
    assert "3 bytes of an unknown format; give a WAV" in refusal(b"abc", audio)
    assert "has no ';base64,'" in refusal("data:audio/wav,abc", audio)
    assert "is not base64" in refusal("data:;base64,###", audio)
    assert refusal(None, audio).startswith("nothing given; give the path")
    assert refusal(float("nan"), audio).startswith("nothing given; give the path")
    assert refusal(3.5, audio).startswith("float given; give the path")
    assert "shape (8, 8, 3); the network takes uint8 of shape (3, 8, 8)" in refusal(
        np.zeros((8, 8, 3), np.uint8), visual
    )
    assert "from 0 to 256; a picture has 0 to 255" in refusal(np.full((3, 8, 8), 256) * np.eye(8, dtype=int), visual)
    assert "NaN or infinite" in refusal(np.full(audio.shape, np.nan), audio)
    assert "not an array" in refusal([[1, 2], [3]], visual)
    assert "an array of <U1" in refusal([["a"]], visual)
    monkeypatch.setenv("MM_BALANCE_SERVE_PATHS", "false")
    assert "takes no paths (MM_BALANCE_SERVE_PATHS=false)" in refusal(picture, visual)
    assert read_cell(picture.read_bytes(), visual).frames == 1


def test_a_damaged_rate_is_refused_before_anything_is_resampled(tmp_path, monkeypatch):
    """One second stated as a million seconds would have the resampler fill the memory."""
    folder = NoisyFolder(tmp_path).fill()
    recipe = recipes_of(folder.load())["audio"]
    soundfile.write(tmp_path / "slow.wav", np.sin(np.arange(1000)), 1)
    monkeypatch.setattr("mm_balance.data.sound.resample", None)
    assert "1 Hz" in refusal(tmp_path / "slow.wav", recipe)


def test_digits_refuse_what_they_cannot_be_made_of(tmp_path):
    recipes = recipes_of(kept(), recipe="embedded")
    soundfile.write(tmp_path / "long.wav", np.sin(np.arange(8000)), 8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), 8000)
    Image.new("L", (28, 28)).save(tmp_path / "small.png")
    assert "1.00 s of sound; digits takes 0.8 s" in refusal(tmp_path / "long.wav", recipes["audio"])
    assert "silent" in refusal(tmp_path / "silent.wav", recipes["audio"])
    assert "28 x 28 pixels; digits takes 36 x 36" in refusal(tmp_path / "small.png", recipes["visual"])
    assert "digits takes one picture" in refusal(tmp_path, recipes["visual"])


def test_data_without_files_take_arrays_only():
    recipe = modality_recipes(tiny_data(), OPTIONS)["audio"]
    assert "only a prepared array (float32, 1 x 8 x 8) can be given" in refusal("clip.wav", recipe)
    assert read_cell(np.zeros((1, 8, 8)), recipe).values.dtype == np.float32
    assert example_of(recipe) is None


def test_the_example_can_be_read(tmp_path):
    folder = NoisyFolder(tmp_path).fill()
    for recipes in (recipes_of(folder.load()), recipes_of(kept(), recipe="embedded")):
        for recipe in recipes.values():
            assert finish([read_cell(example_of(recipe), recipe)], recipe).shape == (1, *recipe.shape)
