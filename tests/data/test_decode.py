"""Decoders against independent ones (librosa, Pillow), and every kind of broken file."""

import io
import struct
import sys

import librosa
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.frames import open_image, to_square
from mm_balance.data.logmel import log_mel, mel_filter_bank
from mm_balance.data.sound import DecodeError, audio_features, fit_length, read_sound, resample
from mm_balance.errors import UserError


def tone(seconds=0.5, rate=16_000, frequency=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encode(audio, rate=16_000, container="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=container, subtype=subtype)
    return file.getvalue()


def decode_image(content, *, size):
    return torch.from_numpy(to_square(open_image(content), size).transpose(2, 0, 1).copy())


def features(content, folder, name="logmel64", seconds=0.25, fit="tile", resampler="soxr_hq", normalization="none"):
    path = folder / "some sound é.wav"
    path.write_bytes(content)
    return audio_features(path, AUDIO_RECIPES[name], seconds, fit, resampler, normalization)


def picture(size=(40, 30), mode="RGB", container="PNG", **options):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, container, **options)
    return file.getvalue()


@pytest.mark.parametrize(("rate", "window", "bands"), [(8000, 256, 40), (16_000, 512, 64)])
def test_mel_filters_are_librosas_scaled_to_average(rate, window, bands):
    theirs = librosa.filters.mel(sr=rate, n_fft=window, n_mels=bands, htk=True, norm=None)
    expected = theirs / theirs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mel_filter_bank(rate, window, bands).numpy(), expected, atol=2e-6)


def test_too_many_mel_bands_are_refused():
    with pytest.raises(ValueError, match="too many"):
        mel_filter_bank(16_000, 64, 128)


def test_log_mel_agrees_with_librosa():
    audio = tone() + 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    ours = log_mel(torch.from_numpy(audio)[None], rate=16_000, window=512, hop=256, bands=64)
    power = np.abs(librosa.stft(audio, n_fft=512, hop_length=256, pad_mode="constant")) ** 2
    taper = librosa.filters.get_window("hann", 512)
    expected = np.log(mel_filter_bank(16_000, 512, 64).numpy() @ power / np.square(taper).sum() + 1e-6)
    assert ours.shape == (1, 1, 64, 1 + 8000 // 256)
    np.testing.assert_allclose(ours[0, 0].numpy(), expected, atol=1e-3)


def test_white_noise_of_variance_one_has_power_one():
    noise = torch.randn(4, 16_000, generator=torch.Generator().manual_seed(0))
    power = log_mel(noise, rate=16_000, window=512, hop=256, bands=64).exp()
    assert float(power.mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", None)])
def test_sound_formats(container, subtype):
    audio, rate = read_sound(encode(tone(), 16_000, container, subtype))
    assert (rate, len(audio)) == (16_000, 8000)
    assert np.abs(audio - tone()).max() < 0.05


def test_channels_are_averaged():
    audio, _ = read_sound(encode(np.stack([tone(), np.zeros_like(tone())], axis=1)))
    np.testing.assert_allclose(audio, tone() / 2, atol=1e-3)


def test_sounds_are_resampled_and_fitted():
    for resampler in ("soxr_hq", "soxr_vhq", "polyphase"):
        audio = fit_length(resample(tone(0.5, 44_100), 44_100, 16_000, resampler), 12_000)
        assert audio.shape == (12_000,)
        spectrum = np.abs(np.fft.rfft(audio[:8000]))
        assert spectrum.argmax() / 0.5 == pytest.approx(440, abs=3)


def test_the_old_resampler_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "resampy", None)
    with pytest.raises(UserError, match="pip install resampy"):
        resample(tone(0.5, 44_100), 44_100, 16_000, "kaiser_best")


def test_fit_length_repeats_and_cuts():
    assert fit_length(np.array([1, 2, 3]), 7).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert fit_length(np.array([1, 2, 3]), 2).tolist() == [1, 2]
    assert fit_length(np.array([1, 2, 3]), 5, "pad").tolist() == [1, 2, 3, 0, 0]
    assert fit_length(np.array([1, 2, 3]), 2, "pad").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no sound at all", "cannot be decoded"),
        (b"", "empty"),
        (encode(tone())[:4000], "truncated"),
        (encode(tone(2), container="OGG")[:4000], "truncated"),
        (encode(tone(2), container="FLAC")[:4000], "truncated|cannot be decoded"),
        (encode(np.zeros(8000, np.float32)), "silent"),
        (encode(np.concatenate([np.zeros(8000, np.float32), tone()])), "silent in the 0.25 s"),
        (encode(np.full(800, np.nan, np.float32), subtype="FLOAT"), "NaN"),
        (encode(np.full(800, np.inf, np.float32), subtype="FLOAT"), "NaN or infinite"),
        (encode(np.zeros(0, np.float32)), "no samples"),
    ],
)
def test_broken_sounds_are_refused_with_a_reason(content, reason, tmp_path):
    with pytest.raises(DecodeError, match=reason) as caught:
        features(content, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG"])
def test_truncation_is_found_wherever_it_is(container, cut):
    content = encode(tone(3), container=container)
    with pytest.raises(DecodeError):
        read_sound(content[: int(cut * len(content))])


def test_a_wav_from_a_pipe_states_no_length():
    content = bytearray(encode(tone()))
    place = content.index(b"data")
    content[place + 4 : place + 8] = struct.pack("<I", 0xFFFFFFFF)
    content[4:8] = struct.pack("<I", 0xFFFFFFFF)
    assert len(read_sound(bytes(content))[0]) == 8000


@pytest.mark.parametrize("container", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_become_rgb_squares(container, mode):
    image = decode_image(picture(mode=mode, container=container), size=16)
    assert (image.shape, image.dtype) == ((3, 16, 16), torch.uint8)


def test_images_are_resized_with_antialiasing():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "PNG")
    image = decode_image(file.getvalue(), size=16).float()
    assert image.std() < 20, "fine stripes turn gray; without antialiasing they would stay black or white"


def test_exif_orientation_is_respected():
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, :8] = (255, 0, 0)
    image, file = Image.fromarray(values), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    image.save(file, "JPEG", exif=exif, quality=95, subsampling=0)
    decoded = decode_image(file.getvalue(), size=8)
    assert decoded[0, 0].min() > 200
    assert decoded[0, -1].max() < 60


def test_sixteen_bit_gray_is_scaled_not_clipped():
    values = np.linspace(0, 65_535, 64).reshape(8, 8).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    decoded = decode_image(file.getvalue(), size=8)
    assert int(decoded[0, 4, 0]) == pytest.approx(values[4, 0] / 257, abs=1)


@pytest.mark.parametrize("container", ["PNG", "JPEG"])
@pytest.mark.parametrize("cut", [0.05, 0.5, 0.9])
def test_truncated_images_are_refused(container, cut):
    content = picture(size=(200, 200), container=container)
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode_image(content[: int(cut * len(content))], size=16)


@pytest.mark.parametrize("content", [b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"text"])
def test_other_contents_are_refused(content):
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode_image(content, size=16)
