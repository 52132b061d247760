"""Pictures and sounds of the explorer: what is put in can be seen and heard."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from mm_balance.data.opus import MOST_SECONDS, RATE, opus
from mm_balance.explorer.media import HEIGHT, MOST_FRAMES, frames_picture, spectrogram_png


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def test_gray_frames_keep_their_pixels():
    frame = np.arange(36 * 30, dtype=np.uint8).reshape(36, 30)
    image = opened(frames_picture(frame[None, :, :, None]))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), frame)


def test_colored_frames_are_a_strip_of_evenly_chosen_ones():
    colors = np.linspace(0, 250, 9).astype(np.uint8)
    frames = np.repeat(colors, 20 * 20 * 3).reshape(9, 20, 20, 3)
    image = opened(frames_picture(frames))
    assert (image.format, image.size) == ("WEBP", (20 * MOST_FRAMES, 20))
    shown = np.asarray(image.convert("L"))[10, 10::20]
    np.testing.assert_allclose(shown, colors[[0, 3, 5, 8]], atol=4)


def test_large_frames_are_made_smaller():
    image = opened(frames_picture(np.zeros((1, 300, 600, 3), dtype=np.uint8)))
    assert image.size == (2 * HEIGHT, HEIGHT)


def test_low_frequencies_of_a_spectrogram_are_at_the_bottom():
    values = np.zeros((10, 5))
    values[0] = 1.0
    image = opened(spectrogram_png(values)).convert("L")
    brightness = np.asarray(image).mean(axis=1)
    assert brightness[-1] == brightness.max()
    assert (brightness[:-1] < brightness[-1]).all()


def test_a_constant_spectrogram_is_dark():
    assert np.ptp(np.asarray(opened(spectrogram_png(np.full((4, 4), 3.0))))) == 0


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_sound_can_be_decoded_again(rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    sound, found = soundfile.read(io.BytesIO(opus(tone, rate)))
    assert found in (RATE, 48000)
    assert len(sound) / found == pytest.approx(1.0, abs=0.05)
    spectrum = np.abs(np.fft.rfft(sound))
    assert np.argmax(spectrum) * found / len(sound) == pytest.approx(440, abs=2)
    middle = sound[len(sound) // 4 : -len(sound) // 4]
    assert np.sqrt(np.square(middle).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_a_long_sound_is_cut_and_a_loud_one_does_not_wrap_round():
    loud = 3 * np.ones(int((MOST_SECONDS + 5) * 8000), dtype=np.float32)
    content = opus(loud, 8000)
    sound, rate = soundfile.read(io.BytesIO(content))
    assert len(sound) / rate == pytest.approx(MOST_SECONDS, abs=0.1)
    assert sound.min() > -0.5
