"""Damaged and hostile media: every outcome is values or a reason, and memory does not follow what a header declares."""

import json
import os
import resource
import socket
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from mm_balance.data import memory
from mm_balance.data.containers import check_complete
from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.files import DecodeError, open_regular
from mm_balance.data.frames import PICTURE_PIXELS, open_image, read_frames
from mm_balance.data.memory import limited_memory
from mm_balance.data.sound import RESAMPLER_MARGIN, audio_features, read_sound_file, resample
from tests.helpers.damage import FORMATS, ROOT, child
from tests.helpers.faults import record
from tests.helpers.media import tone, write_video

RECIPE = AUDIO_RECIPES["logmel64"]


def features(path, seconds=0.25, resampler="soxr_hq"):
    return audio_features(path, RECIPE, seconds, "tile", resampler, "none")[0]


def frames(path, count=3):
    return read_frames(path, frames_per_second=10.0, count=count, size=16)


def readers(path):
    return (lambda: frames(path), lambda: read_sound_file(path))


# Declared sizes


def flac_that_declares(path, samples):
    soundfile.write(path, tone(0.5, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    # STREAMINFO from byte 8 on: its bits 108 to 143 are the number of samples.
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4)
    path.write_bytes(content)
    return path


def low_rate(path):
    soundfile.write(path, np.tile(tone(0.5, 16_000), 2), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = (1).to_bytes(4, "little")
    path.write_bytes(content)


def three_hours(path):
    """Of sound at 8 kHz: 10 s of a tone, and then silence, which takes no room on the disk."""
    soundfile.write(path, tone(10.0, 8000), 8000)
    samples = 3 * 3600 * 8000
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = (2 * samples + 36).to_bytes(4, "little"), (2 * samples).to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, 44 + 2 * samples)


def forty_minutes(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        block = av.AudioFrame.from_ndarray((3e4 * tone(10.0, 8000)).astype(np.int16)[None], format="s16", layout="mono")
        block.sample_rate = 8000
        for number in range(240):
            block.pts = number * 80_000
            container.mux(stream.encode(block))


def bomb(path):
    Image.new("1", (13_000, 13_000)).save(path)
    assert path.stat().st_size < 30_000


HOSTILE = {
    "declares hours.flac": lambda path: flac_that_declares(path, 1 << 35),
    "rate.wav": low_rate,
    "bomb.png": bomb,
    "long.wav": three_hours,
    "long.mkv": forty_minutes,
    "large.png": lambda path: Image.new("RGB", (6000, 6000)).save(path, compress_level=1),
}


@pytest.fixture(scope="module")
def read_in_a_child(tmp_path_factory):
    """Name of a file -> what came of it (sum of the features, seconds, or a reason), and by how many MiB memory grew."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, write in HOSTILE.items():
        write(folder / name)
    # "large.png" last: it is read within too small a limit of memory, and then without.
    return child(
        """
found = {}
for name in sys.argv[2:]:
    start = growth()
    try:
        if name.endswith(".png"):
            with limited_memory(64 << 20) if name == "large.png" else nullcontext():
                read_frames(path / name, frames_per_second=1.0, count=1, size=32)
            answer = ["picture"]
        else:
            values, facts = audio_features(path / name, AUDIO_RECIPES["logmel64"], 0.25, "tile", "soxr_hq", "none")
            answer = [float(values.sum()), facts.seconds]
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    found[name] = [answer, growth() - start]
read_frames(path / "large.png", frames_per_second=1.0, count=1, size=32)
print(json.dumps(found))
""",
        folder,
        *HOSTILE,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("declares hours.flac", "truncated: 8000 of 34359738368 samples can be read"),
        ("rate.wav", "states a sampling rate of 1 Hz, which no sound has (1,000 to 1,000,000); the file is damaged"),
        ("bomb.png", "13,000 x 13,000 pixels, more than 110,000,000 in all; make the picture smaller"),
    ],
)
def test_headers_are_not_believed(read_in_a_child, name, reason):
    answer, growth = read_in_a_child[name]
    assert answer == ["DecodeError", reason]
    assert growth < 30


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("long.wav", 3 * 3600), ("long.mkv", 2400)])
def test_of_a_long_recording_only_what_is_used_is_in_memory(read_in_a_child, tmp_path, name, seconds):
    """As floating-point numbers the sounds have 340 and 77 MB."""
    (total, found), growth = read_in_a_child[name]
    assert found == pytest.approx(seconds)
    assert growth < 30
    if name == "long.wav":
        soundfile.write(tmp_path / "short.wav", tone(10.0, 8000), 8000)
        assert total == float(features(tmp_path / "short.wav").sum())


def test_a_flac_from_a_pipe_states_no_length(tmp_path):
    audio, facts = read_sound_file(flac_that_declares(tmp_path / "pipe.flac", 0))
    assert (len(audio), facts.seconds) == (8000, 0.5)


def test_an_mp3_with_a_damaged_length_is_refused(tmp_path):
    path = tmp_path / "sound.mp3"
    soundfile.write(path, tone(0.5, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    place = next(content.index(mark) for mark in (b"Xing", b"Info") if mark in content)
    content[place + 8 : place + 12] = (0x7FFFFFFF).to_bytes(4)  # frames
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="truncated"):
        read_sound_file(path)


@pytest.mark.parametrize("name", ["sound.wav", "sound.flac", "sound.ogg", "sound.mp3"])
def test_blocks_join_without_a_seam(tmp_path, monkeypatch, name):
    path = tmp_path / name
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 2)), 16_000)
    whole, facts = read_sound_file(path)
    with soundfile.SoundFile(path) as file:  # soundfile.read would seek first, which changes the last bits of an MP3
        assert np.array_equal(whole, file.read(dtype="float32").mean(axis=1))
    monkeypatch.setattr("mm_balance.data.sound.BLOCK", 5000)
    parts, same = read_sound_file(path)
    assert np.array_equal(parts, whole)
    assert same == facts
    assert np.array_equal(read_sound_file(path, seconds=1.0)[0], whole[:16_000])


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_blocks_of_a_track_join_without_a_seam(tmp_path, monkeypatch, name):
    path = write_video(tmp_path / name, picture=False)
    whole, facts = read_sound_file(path)
    monkeypatch.setattr("mm_balance.data.sound.BLOCK", 5000)
    parts, same = read_sound_file(path)
    assert np.array_equal(parts, whole)
    assert same == facts
    assert np.array_equal(read_sound_file(path, seconds=1.0)[0], whole[:44_100])


def test_many_channels_are_read_in_blocks(tmp_path):
    path = tmp_path / "wide.wav"
    soundfile.write(path, np.tile(tone(0.5, 8000)[:, None], (1, 1024)), 8000)
    audio, facts = read_sound_file(path)
    assert (len(audio), facts.channels) == (4000, 1024)
    np.testing.assert_allclose(audio, tone(0.5, 8000), atol=1e-3)


@pytest.mark.parametrize("resampler", ["soxr_hq", "soxr_vhq", "polyphase"])
@pytest.mark.parametrize("rate", [1000, 8000, 11_025, 44_100, 48_000, 192_000])
def test_what_follows_the_used_part_changes_no_bit_of_it(rate, resampler):
    sound = np.random.default_rng(rate).standard_normal(6 * rate).astype(np.float32)
    used = round(1.5 * RECIPE.rate)
    whole = resample(sound, rate, RECIPE.rate, resampler)[:used]
    kept = resample(sound[: round((1.5 + RESAMPLER_MARGIN) * rate)], rate, RECIPE.rate, resampler)[:used]
    assert np.array_equal(whole, kept)


def test_what_is_not_kept_is_checked_all_the_same(tmp_path):
    path = tmp_path / "sound.wav"
    sound = tone(8.0, 8000)
    sound[-1] = np.nan
    soundfile.write(path, sound, 8000, subtype="FLOAT")
    with pytest.raises(DecodeError, match="NaN or infinite"):
        features(path)


@pytest.mark.parametrize("side", [13_000, 20_000])
def test_a_jpeg_that_declares_too_much_is_refused_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.jpg"
    Image.new("RGB", (64, 64)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    reason = "more than 110,000,000" if side == 13_000 else "cannot be decoded"  # the latter is Pillow's own bound
    with pytest.raises(DecodeError, match=reason):
        open_image(bytes(content))


PICTURE = """
try:
    read_frames(path, frames_per_second=1.0, count=1, size=32)
    reason = ""
except DecodeError as error:
    reason = str(error)
print(json.dumps([reason, growth()]))
"""


@pytest.mark.verify
@pytest.mark.parametrize("name", ["photo.jpg", "gray.png", "deep.png"])
def test_the_largest_photographs_are_read_within_the_limit_of_memory(tmp_path, name):
    path = tmp_path / name
    size = (12_032, 9_024)  # 108 million pixels
    assert size[0] * size[1] <= PICTURE_PIXELS
    if name == "deep.png":
        Image.fromarray(np.full(size[::-1], 30_000, np.uint16)).save(path)
    else:
        Image.new("L" if name == "gray.png" else "RGB", size, 100 if name == "gray.png" else (9, 99, 200)).save(path)
    reason, growth = child(PICTURE, path)
    assert reason == ""
    assert growth < 0.75 * memory.LIMIT / memory.MEBIBYTE


def test_a_video_of_enormous_frames_is_refused(tmp_path):
    path = write_video(tmp_path / "huge.avi", size=(8000, 5100), frames=1, sound=False)
    with pytest.raises(DecodeError, match=r"frames of 8,000 x 5,100 pixels, more than 40,000,000 in all"):
        frames(path)


def test_frames_that_are_larger_than_the_header_says_are_refused(tmp_path, monkeypatch):
    """By FFmpeg, in the decoder: nothing else knows their size before they are decoded."""
    path = write_video(tmp_path / "film.mp4", seconds=0.5)
    monkeypatch.setattr("mm_balance.data.sound.DECODER_LIMITS", {"max_pixels": str(96 * 72 - 1)})
    with pytest.raises(DecodeError, match="no frame can be decoded"):
        frames(path)


# Cut files


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """One second in every container that states its size."""
    folder = tmp_path_factory.mktemp("second")
    for name, options in (
        ("film.avi", {}), ("film.mkv", {}), ("film.mp4", {"movflags": "faststart"}), ("film.flv", {}),
    ):  # fmt: skip
        write_video(folder / name, seconds=1.0, draw=noise, options=options)
    return folder


def noise(number):
    return np.random.default_rng(number).integers(0, 255, (72, 96), dtype=np.uint8)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.97])
@pytest.mark.parametrize("name", ["film.avi", "film.mkv", "film.mp4", "film.flv"])
def test_short_files_are_found_to_be_cut(tmp_path, second, name, share):
    content = (second / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(share * len(content))])
    for read in readers(path):
        with pytest.raises(DecodeError, match="truncated"):
            read()


def whole_second(path):
    values, facts = frames(path, count=10)
    assert (facts.valid, values.shape[0]) == (10, 10)
    assert read_sound_file(path)[1].seconds == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", ["film.avi", "film.mkv", "film.mp4", "film.flv"])
def test_whole_files_pass(second, name):
    whole_second(second / name)


def changed(path, folder, change):
    content = bytearray(path.read_bytes())
    change(content)
    target = folder / path.name
    target.write_bytes(content)
    return target


def avi_without_size(content):
    content[4:8] = bytes(4)


def what_a_camera_appends(content):
    content += b"\x00\x10\x00\x00SEFT" + bytes(20)


def flv_with_the_size_of_another_file(content):
    place = content.index(b"\x00\x08filesize\x00")
    content[place + 11 : place + 19] = struct.pack(">d", 10 * len(content))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("film.avi", avi_without_size),
        ("film.mp4", what_a_camera_appends),
        ("film.flv", flv_with_the_size_of_another_file),
    ],
)
def test_honest_oddities_pass(tmp_path, second, name, change):
    whole_second(changed(second / name, tmp_path, change))


def test_a_live_stream_states_no_size(tmp_path):
    whole_second(write_video(tmp_path / "live.mkv", seconds=1.0, options={"live": "1"}))
    whole_second(write_video(tmp_path / "live.mp4", seconds=1.0, options={"movflags": "frag_keyframe+empty_moov"}))


@pytest.mark.parametrize("name", ["film.mkv", "film.avi", "film.mp4"])
@pytest.mark.parametrize(("seconds", "sound_seconds"), [(1.0, 0.6), (0.6, 1.0)])
def test_tracks_need_not_be_of_equal_length(tmp_path, name, seconds, sound_seconds):
    path = write_video(tmp_path / name, seconds=seconds, sound_seconds=sound_seconds)
    assert frames(path, count=10)[1].valid == pytest.approx(10 * seconds, abs=1)
    assert read_sound_file(path)[1].seconds == pytest.approx(sound_seconds, abs=0.1)


def test_sounds_above_four_gigabytes_state_their_size_elsewhere(tmp_path):
    path = tmp_path / "large.wav"
    soundfile.write(path, tone(0.5, 8000), 8000, format="RF64")
    content = path.read_bytes()
    assert content[:4] == b"RF64"
    assert read_sound_file(path)[1].seconds == 0.5
    path.write_bytes(content[:-2000])
    with pytest.raises(DecodeError, match=r"truncated: .* bytes of sound"):
        read_sound_file(path)


def test_millions_of_empty_chunks_are_not_counted(tmp_path):
    path = tmp_path / "empty.wav"
    soundfile.write(path, tone(0.1, 8000), 8000)
    header = path.read_bytes()[:36]
    path.write_bytes(header + bytes(64_000_000))
    reads = []

    class Counted:
        def __init__(self, file):
            self.seek = file.seek
            self.read = lambda count: reads.append(count) or file.read(count)

    with path.open("rb") as file:
        check_complete(Counted(file))
    assert len(reads) < 2_000


# Memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_what_needs_too_much_memory_is_a_reason_and_the_limit_ends_with_the_task(read_in_a_child):
    answer, _ = read_in_a_child["large.png"]
    assert answer == ["NotEnoughMemory", "needs more than 64 MiB of memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_limit_of_the_users_own_stays():
    """The smaller one holds, and afterwards the one from before."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    own = memory._private_memory() + (100 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (own, before[1]))
    try:
        with limited_memory(1 << 30):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == own
        with limited_memory(10 << 20):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] < own
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == own
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 128. GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_errors_of_memory_are_reasons(tmp_path, monkeypatch, error):
    path = tmp_path / "sound.wav"
    soundfile.write(path, tone(0.5, 8000), 8000)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mm_balance.data.sound.resample", fail)
    with pytest.raises(DecodeError, match="needs more memory than there is"):
        features(path)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    path = tmp_path / "sound.wav"
    soundfile.write(path, tone(0.5, 8000), 8000)

    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("mm_balance.data.sound.resample", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        features(path)


# What is no file


def no_file(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        # The path of a socket is at most 100 characters long.
        here = os.open(path.parent, os.O_RDONLY)
        subprocess.run(
            [sys.executable, "-c", f"import os, socket; os.fchdir({here}); socket.socket(socket.AF_UNIX).bind({path.name!r})"],
            check=True, pass_fds=[here],
        )  # fmt: skip
        os.close(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no sockets in folders")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, kind):
    with (
        pytest.raises(DecodeError, match=f"not a regular file .it is a {kind}"),
        open_regular(no_file(tmp_path / "x", kind)),
    ):
        pass


@pytest.mark.parametrize("name", ["x.wav", "x.mp4", "x.png"])
def test_pipes_of_any_extension_are_refused(tmp_path, name):
    path = no_file(tmp_path / name, "pipe")
    with pytest.raises(DecodeError, match="not a regular file"):
        features(path) if name == "x.wav" else frames(path)


def test_a_pipe_among_frames_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    no_file(tmp_path / "1.png", "pipe")
    with pytest.raises(DecodeError, match=r"frame 1\.png: not a regular file \(it is a pipe\)"):
        frames(tmp_path)


# Anything


def fuzzed(cases):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.helpers.damage", str(cases), *FORMATS], capture_output=True, text=True, cwd=ROOT, timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def check_fuzzed(found, cases):
    for extension, counts in found["outcomes"].items():
        tracks = 2 if extension in (".mp4", ".avi", ".mkv") else 1
        assert counts.keys() <= {"values", "refused"}
        assert sum(counts.values()) == tracks * cases
        assert counts["refused"] > cases / 4, f"{extension}: damage is found"
    assert found["growth"] < 150


@pytest.mark.slow
def test_whatever_the_damage_there_are_values_or_a_reason():
    check_fuzzed(fuzzed(20), 20)


@pytest.mark.verify
def test_whatever_the_damage_there_are_values_or_a_reason_500_times_per_format():
    found = fuzzed(500)
    for extension, counts in found["outcomes"].items():
        tries = sum(counts.values())
        good = counts.get("values", 0) + counts.get("refused", 0)
        record(
            f"damaged media: {extension}", tries, good, tries - good, "values, or one line that names file and reason"
        )
    check_fuzzed(found, 500)
