"""Feature recipes against independent computations in float64, written from the definitions."""

import math

import numpy as np
import pytest
import torch

from mm_balance.data.features import AUDIO_RECIPES, KALDI_FLOOR, fbank128, kaldi_filters, stft257
from mm_balance.data.logmel import log_mel

SECONDS = {"stft257": 3.0, "fbank128": 10.24, "logmel64": 3.0}


def chirp(name, seconds=None):
    recipe = AUDIO_RECIPES[name]
    time = np.arange(recipe.samples(SECONDS[name] if seconds is None else seconds)) / recipe.rate
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * (100 * time + 400 * time**2)) + noise).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "shape"), [("stft257", (1, 257, 188)), ("fbank128", (1, 128, 1024)), ("logmel64", (1, 64, 188))]
)
def test_shapes(name, shape):
    recipe = AUDIO_RECIPES[name]
    assert recipe.shape(SECONDS[name]) == shape
    features = recipe.compute(chirp(name), SECONDS[name])
    assert (features.shape, features.dtype) == (shape, np.float32)


def test_stft257_is_the_transform_by_definition():
    """OGM-GE's recipe: a Hann window of 512 every 353 samples, centered, silence beyond both ends."""
    audio = chirp("stft257").astype(np.float64)
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 512) for n in range(512)])
    padded = np.concatenate([np.zeros(256), np.clip(audio, -1, 1), np.zeros(256)])
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    magnitude = np.stack([np.abs(turns @ (padded[k * 353 : k * 353 + 512] * window)) for k in range(188)], axis=1)
    ours = stft257(audio.astype(np.float32))
    loud = magnitude > 1e-3
    assert loud.mean() > 0.9
    np.testing.assert_allclose(ours[loud], np.log(magnitude + 1e-7)[loud], atol=1e-4)


def test_stft257_clips_what_is_too_loud():
    audio = chirp("stft257")
    np.testing.assert_array_equal(stft257(20 * audio), stft257(np.clip(20 * audio, -1, 1)))


def naive_fbank(audio):
    """Kaldi's filter banks, frame by frame and band by band."""
    audio = audio.astype(np.float64)
    audio = audio - audio.mean()
    rows = []
    for start in range(0, len(audio) - 400 + 1, 160):
        frame = [value - audio[start : start + 400].mean() for value in audio[start : start + 400]]
        emphasised = [frame[0] - 0.97 * frame[0]] + [frame[n] - 0.97 * frame[n - 1] for n in range(1, 400)]
        windowed = [value * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) for n, value in enumerate(emphasised)]
        power = np.abs(np.fft.fft(np.concatenate([windowed, np.zeros(112)]))[:257]) ** 2

        def mel(frequency):
            return 1127 * math.log(1 + frequency / 700)

        low, high = mel(20), mel(8000)
        step = (high - low) / 129
        row = []
        for band in range(128):
            left, center, right = low + band * step, low + (band + 1) * step, low + (band + 2) * step
            energy = 0.0
            for bin in range(256):
                place = mel(bin * 16_000 / 512)
                if left < place <= center:
                    energy += power[bin] * (place - left) / (center - left)
                elif center < place < right:
                    energy += power[bin] * (right - place) / (right - center)
            row.append(math.log(max(energy, 1.1920928955078125e-07)))
        rows.append(row)
    return np.array(rows).T


def test_fbank128_is_kaldis_by_definition():
    audio = chirp("fbank128", 0.2)
    expected = naive_fbank(audio)
    assert expected.shape == (128, 18)
    np.testing.assert_allclose(fbank128(audio), expected, rtol=1e-4, atol=1e-4)


def test_fbank128_golden_numbers():
    """A tone of 1 kHz: the loudest band is the one around it, and the power is what Parseval says."""
    time = np.arange(1600) / 16_000
    features = fbank128((0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32))
    assert features.shape == (128, 8)
    centers = 700 * (np.exp((1127 * np.log(1 + 20 / 700) + np.arange(1, 129) * (
        1127 * np.log(1 + 8000 / 700) - 1127 * np.log(1 + 20 / 700)) / 129) / 1127) - 1)  # fmt: skip
    assert np.abs(features[:, 3].argmax() - np.abs(centers - 1000).argmin()) <= 1
    # The bands share out all the power. By Parseval: half of 512 times that of the windowed, pre-emphasised tone.
    gain = abs(1 - 0.97 * np.exp(-2j * np.pi * 1000 / 16_000))
    assert np.exp(features[:, 3]).sum() == pytest.approx(256 * (0.5 * gain) ** 2 / 2 * 0.375 * 399, rel=0.01)


def test_fbank128_fills_up_with_zeros_and_its_floor_is_kaldis():
    recipe = AUDIO_RECIPES["fbank128"]
    features = recipe.compute(chirp("fbank128", 1.0), 10.24)
    assert (features[:, :, :98] != 0).all()
    assert not features[:, :, 98:].any()
    assert fbank128(np.zeros(800, np.float32)) == pytest.approx(np.full((128, 3), math.log(KALDI_FLOOR)), rel=1e-5)
    assert not recipe.compute(np.ones(100, np.float32), 1.0).any(), "less than one window"


def test_kaldis_filters_sum_to_one_between_their_centers():
    total = kaldi_filters(128, 512, 16_000).sum(0)
    np.testing.assert_allclose(total[3:248], 1.0, atol=1e-9)


def test_logmel64_is_the_batched_one_that_digits_use():
    audio = chirp("logmel64")
    batched = log_mel(torch.from_numpy(audio)[None], rate=16_000, window=512, hop=256, bands=64)[0]
    np.testing.assert_allclose(AUDIO_RECIPES["logmel64"].compute(audio, 3.0), batched.numpy(), atol=2e-3)


@pytest.mark.parametrize("name", list(AUDIO_RECIPES))
def test_ten_times_louder_is_a_shift_of_the_logarithm(name):
    recipe = AUDIO_RECIPES[name]
    quiet = 0.05 * chirp(name)
    shift = recipe.compute(10 * quiet, SECONDS[name]) - recipe.compute(quiet, SECONDS[name])
    expected = math.log(10) * (1 if name == "stft257" else 2)
    features = recipe.compute(quiet, SECONDS[name])
    loud = (features > math.log(1e-3)) & (features != 0)  # 0 is what fbank128 is filled up with
    assert loud[0].any(0).mean() > 0.9
    np.testing.assert_allclose(shift[loud], expected, atol=5e-3)
