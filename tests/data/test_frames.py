"""Pictures and sounds of videos: which frames, which lengths, and every kind of broken file."""

import numpy as np
import pytest
from PIL import Image

from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.frames import read_frames
from mm_balance.data.sound import DecodeError, audio_features, read_sound_file
from tests.helpers.media import GRID, write_video


def frames(path, count=3, rate=1.0, size=16):
    return read_frames(path, frames_per_second=rate, count=count, size=size)


def levels(values, valid):
    return [round(float(picture.mean())) for picture in values[:valid]]


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film.mpg", "film.mkv", "ein Film é 映画.mp4"])
def test_frames_are_those_shown_at_the_beginning_of_each_interval(tmp_path, name):
    path = write_video(tmp_path / name, seconds=2.6)
    values, facts = frames(path)
    assert (facts.valid, facts.width, facts.height) == (3, 96, 72)
    assert facts.rate == pytest.approx(25, rel=0.01)
    assert facts.seconds == pytest.approx(2.6, abs=0.2)
    assert levels(values, 3) == pytest.approx([10, 35, 60], abs=3), "frames 0, 25 and 50"
    half, _ = frames(path, count=4, rate=2.0)
    assert levels(half, 4) == pytest.approx([10, 22, 35, 47], abs=3), "between two frames the earlier one is shown"


def test_a_clip_that_ends_early_has_fewer_frames_and_zeros_behind(tmp_path):
    values, facts = frames(write_video(tmp_path / "film.mp4", seconds=1.6), count=5)
    assert facts.valid == 2
    assert not values[2:].any()


def test_frames_finer_than_the_videos_own_repeat(tmp_path):
    values, facts = frames(write_video(tmp_path / "film.mp4", seconds=0.2, rate=10), count=8, rate=40.0)
    assert facts.valid == 8
    assert levels(values, 8) == pytest.approx([10, 10, 10, 10, 11, 11, 11, 11], abs=1.5)


def test_a_video_of_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", frames=1, sound_seconds=0.5)
    values, facts = frames(path)
    assert facts.valid == 1
    assert levels(values, 1) == pytest.approx([10], abs=2)
    assert len(read_sound_file(path)[0]) > 20_000


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film.mpg"])
def test_the_sound_of_a_video(tmp_path, name):
    audio, facts = read_sound_file(write_video(tmp_path / name, seconds=2.0))
    assert (facts.rate, facts.channels) == (44_100, 2)
    assert facts.seconds == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(audio[10_000:54_100]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)
    assert np.abs(audio[10_000:54_100]).max() == pytest.approx(0.5, abs=0.05)


def test_missing_tracks_are_named(tmp_path):
    mute = write_video(tmp_path / "mute.mp4", sound=False)
    with pytest.raises(DecodeError, match=r"no sound track \(it has 1 video, 0 audio\)"):
        read_sound_file(mute)
    blind = write_video(tmp_path / "blind.mp4", picture=False)
    with pytest.raises(DecodeError, match=r"no video track \(it has 0 video, 1 audio\)"):
        frames(blind)


def test_a_silent_track_is_named(tmp_path):
    path = write_video(tmp_path / "silent.mp4", level=0.0)
    with pytest.raises(DecodeError, match="silent"):
        audio_features(path, AUDIO_RECIPES["stft257"], 1.0, "tile", "soxr_hq", "none")


@pytest.mark.parametrize("name", ["film.mp4", "film.flv", "film.mpg", "film.mkv"])
@pytest.mark.parametrize("share", [0.02, 0.4])
def test_truncated_videos_are_refused_or_said_to_be_short(tmp_path, name, share):
    """A container that states its length is found out; .mpg states none, so its rest is a shorter clip."""
    path = write_video(tmp_path / name, seconds=4.0)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    if name == "film.mpg":
        if share == 0.4:
            assert read_sound_file(path)[1].seconds < 3
        return
    for read in (lambda: frames(path, count=4), lambda: read_sound_file(path)):
        with pytest.raises(DecodeError) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
def test_other_contents_are_refused(tmp_path, content):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    for read in (lambda: frames(path), lambda: read_sound_file(path)):
        with pytest.raises(DecodeError, match=r"empty|cannot be opened|no sound|no picture"):
            read()


def test_a_folder_of_frames_in_natural_order(tmp_path):
    folder = tmp_path / "frames of été"
    folder.mkdir()
    for number in (1, 2, 10):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"frame{number}.png")
    (folder / "notes.txt").write_text("no frame")
    values, facts = frames(folder, count=3, size=8)
    assert levels(values, 3) == [1, 2, 10]
    assert (facts.valid, facts.width, facts.rate, facts.seconds) == (3, 8, None, None)
    (folder / "frame2.png").write_bytes(b"broken")
    with pytest.raises(DecodeError, match=r"frame frame2\.png: cannot be decoded"):
        frames(folder)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DecodeError, match="holds no frames"):
        frames(tmp_path)


@pytest.mark.skipif(not GRID.is_dir(), reason="the real clips are not at hand")
@pytest.mark.parametrize("name", ["bbaf2n", "id2_vcd_swwp2s", "sbwe5n"])
def test_real_talking_faces(name):
    values, facts = frames(GRID / f"{name}.mpg", count=3, size=64)
    assert (facts.valid, facts.width, facts.height, facts.rate) == (3, 360, 288, 25.0)
    assert values[0].std() > 20
    audio, sound = read_sound_file(GRID / f"{name}.mpg")
    assert (len(audio), sound.rate) == (131_328, 44_100)
