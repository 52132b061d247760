"""The store: what is decoded once stays decoded, whatever happens; rows are right; bad clips are named."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mm_balance.data import decoding
from mm_balance.data import store as stores
from mm_balance.data.decoding import content_hash
from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.growing_array import row_shapes
from mm_balance.data.journal import identify
from mm_balance.data.recipe import Recipe
from mm_balance.data.store import build_store, open_store
from mm_balance.errors import Interrupted, UserError
from tests.helpers.deadly import Deadly, Greedy

RECIPE = Recipe(
    audio="logmel64", clip_seconds=0.2, audio_fit="tile", resampler="soxr_hq", per_sample=False, frames_per_second=10.0,
    frame_count=2, frame_edge=8,
)  # fmt: skip
KINDS = {"audio": "sound", "visual": "image"}


def make_clip(folder: Path, number: int) -> stores.Clip:
    """A tone and a gray picture that both tell the number."""
    sound, picture = folder / f"clip {number} é.wav", folder / f"{number}.png"
    if not sound.exists():
        seconds = np.arange(3200) / 16_000
        soundfile.write(sound, 0.5 * np.sin(2 * np.pi * (200 + 50 * number) * seconds), 16_000)
        Image.fromarray(np.full((6, 9, 3), number, np.uint8)).save(picture)
    files = {"audio": sound, "visual": picture}
    return identify(f"s{number}", files, {name: path.name for name, path in files.items()})


def make_clips(folder: Path, count: int) -> list[stores.Clip]:
    folder.mkdir(exist_ok=True)
    return [make_clip(folder, number) for number in range(count)]


def build(folder, clips, **options):
    return build_store(folder, clips, RECIPE, KINDS, **{"workers": 1, "progress": False, **options})


def count_decoding(monkeypatch):
    """How often a clip is decoded, in this process."""
    seen = []
    original = decoding._decode_clip

    def counted(clip, *rest):
        seen.append(clip.sample)
        return original(clip, *rest)

    monkeypatch.setattr(decoding, "_decode_clip", counted)
    return seen


def check_rows(store, count):
    """Every sample's row holds its own picture and its own sound."""
    assert set(store.line_index("sample")) == {f"s{number}" for number in range(count)}
    rows = store.columns["row"].to_pylist()
    for sample, line in store.line_index("sample").items():
        number = int(sample[1:])
        assert (store.arrays["visual"][rows[line], 0] == number).all()
        assert (store.arrays["visual"][rows[line], 1] == 0).all(), "a picture has one frame"
        loudest = store.arrays["audio"][rows[line], 0].mean(1).argmax()
        bands = AUDIO_RECIPES["logmel64"]
        seconds = np.arange(3200) / 16_000
        tone = (0.5 * np.sin(2 * np.pi * (200 + 50 * number) * seconds)).astype(np.float32)
        assert loudest == bands.compute(tone, 0.2)[0].mean(1).argmax()


def test_rows_facts_and_formats(tmp_path):
    clips = make_clips(tmp_path / "raw", 5)
    store, failures = build(tmp_path / "store", clips)
    assert failures == []
    check_rows(store, 5)
    assert store.arrays["visual"].dtype == np.uint8
    assert store.arrays["audio"].dtype == np.float32
    assert {name: value.shape[1:] for name, value in store.arrays.items()} == {
        name: shape for name, (shape, _) in row_shapes(RECIPE, KINDS).items()
    }
    columns = {name: value.to_pylist() for name, value in store.columns.items()}
    assert columns["audio_rate"] == [16_000] * 5
    assert columns["audio_seconds"] == pytest.approx([0.2] * 5)
    assert columns["visual_width"] == [9] * 5
    assert columns["visual_height"] == [6] * 5
    assert columns["visual_frames"] == [1] * 5
    line = store.line_index("sample")["s3"]
    assert columns["visual_mean"][line] == pytest.approx([3 / 255] * 3)
    assert columns["visual_square"][line] == pytest.approx([(3 / 255) ** 2] * 3)
    values = store.arrays["audio"][columns["row"][line]].astype(float)
    assert columns["audio_mean"][line] == pytest.approx([values.mean()], rel=1e-5)
    assert columns["audio_square"][line] == pytest.approx([(values**2).mean()], rel=1e-5)
    assert columns["audio_sha256"][line] == content_hash(tmp_path / "raw" / "clip 3 é.wav")
    described = json.loads((tmp_path / "store" / "store.json").read_text("utf-8"))
    assert described["clips"] == 5
    assert np.load(tmp_path / "store" / "visual.npy").shape == (5, 2, 8, 8, 3), "any NumPy reads it"


def test_the_second_time_nothing_is_done(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 4)
    build(tmp_path / "store", clips)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    seen = count_decoding(monkeypatch)
    build(tmp_path / "store", make_clips(tmp_path / "raw", 4))
    assert seen == []
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"lock", "writers"}


def test_new_and_changed_clips_alone_are_decoded_and_an_open_store_is_not_disturbed(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 3)
    opened, _ = build(tmp_path / "store", clips)
    before = opened.arrays["visual"][:].copy()
    Image.fromarray(np.full((6, 9, 3), 77, np.uint8)).save(tmp_path / "raw" / "1.png")
    seen = count_decoding(monkeypatch)
    store, _ = build(tmp_path / "store", make_clips(tmp_path / "raw", 5))
    assert sorted(seen) == ["s1", "s3", "s4"]
    assert np.array_equal(opened.arrays["visual"], before)
    rows = store.columns["row"].to_pylist()
    assert (store.arrays["visual"][rows[store.line_index("sample")["s1"]], 0] == 77).all()


def test_workers_give_the_same_as_one_process(tmp_path):
    clips = make_clips(tmp_path / "raw", 40)
    alone, _ = build(tmp_path / "alone", clips)
    together, failures = build(tmp_path / "together", clips, workers=2)
    assert failures == []
    check_rows(together, 40)
    for name in KINDS:
        ours = {sample: together.columns["row"][line].as_py() for sample, line in together.line_index("sample").items()}
        theirs = {sample: alone.columns["row"][line].as_py() for sample, line in alone.line_index("sample").items()}
        for sample in ours:
            assert np.array_equal(together.arrays[name][ours[sample]], alone.arrays[name][theirs[sample]])


def test_a_bad_clip_is_named_remembered_and_tried_again_when_it_changes(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 3)
    (tmp_path / "raw" / "1.png").write_bytes(b"no picture")
    clips = make_clips(tmp_path / "raw", 3)
    store, failures = build(tmp_path / "store", clips)
    assert [(failure.sample, failure.modality) for failure in failures] == [("s1", "visual")]
    assert "PNG" in failures[0].reason
    assert set(store.line_index("sample")) == {"s0", "s2"}
    seen = count_decoding(monkeypatch)
    assert build(tmp_path / "store", clips)[1] == failures
    assert seen == []
    Image.fromarray(np.full((6, 9, 3), 1, np.uint8)).save(tmp_path / "raw" / "1.png")
    store, failures = build(tmp_path / "store", make_clips(tmp_path / "raw", 3))
    assert (seen, failures) == (["s1"], [])
    check_rows(store, 3)


def test_an_unreadable_file_is_tried_again_without_changing(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 2)
    original = decoding._decode

    def denied(path, *rest):
        if path.name == "1.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *rest)

    monkeypatch.setattr(decoding, "_decode", denied)
    _, failures = build(tmp_path / "store", clips)
    assert "cannot be read (Permission denied)" in failures[0].reason
    monkeypatch.setattr(decoding, "_decode", original)
    store, failures = build(tmp_path / "store", clips)
    assert failures == []
    check_rows(store, 2)


def test_a_stop_keeps_what_was_decoded(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 3 * stores.CHUNK)
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(Interrupted):
        build(tmp_path / "store", clips, stop=stop)
    with pytest.raises(UserError, match="no prepared store"):
        open_store(tmp_path / "store")
    seen = count_decoding(monkeypatch)
    store, _ = build(tmp_path / "store", clips)
    assert len(seen) == stores.CHUNK
    check_rows(store, 3 * stores.CHUNK)


def _build_slowly(folder, raw, count):
    original = decoding._decode_clip

    def slow(*words):
        time.sleep(0.02)
        return original(*words)

    decoding._decode_clip = slow
    build(folder, make_clips(raw, count))


def test_a_killed_process_loses_no_more_than_the_clips_under_way(tmp_path, monkeypatch):
    count = 6 * stores.CHUNK
    make_clips(tmp_path / "raw", count)
    process = multiprocessing.get_context("spawn").Process(
        target=_build_slowly, args=(tmp_path / "store", tmp_path / "raw", count)
    )
    process.start()
    journal = tmp_path / "store" / "journal.jsonl"
    for _ in range(6000):
        if journal.is_file() and len(journal.read_text("utf-8").splitlines()) > 2 * stores.CHUNK:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = len(journal.read_text("utf-8").splitlines()) - 1
    assert 2 * stores.CHUNK <= done < count
    with journal.open("a") as file:
        file.write('{"identity": "torn')
    seen = count_decoding(monkeypatch)
    store, _ = build(tmp_path / "store", make_clips(tmp_path / "raw", count))
    assert len(seen) == count - done
    check_rows(store, count)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 2 * stores.CHUNK)
    written = []
    original = os.pwrite

    def full(*words):
        written.append(1)
        if len(written) > 2 * stores.CHUNK + 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*words)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"No space left on device.*decoded clips are kept"):
        build(tmp_path / "store", clips)
    monkeypatch.setattr(os, "pwrite", original)
    seen = count_decoding(monkeypatch)
    store, _ = build(tmp_path / "store", clips)
    assert len(seen) == stores.CHUNK
    check_rows(store, 2 * stores.CHUNK)


def test_too_little_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match=r"3 clips need .* MB, 0.0 MB are free; use another data_dir"):
        build(tmp_path / "store", make_clips(tmp_path / "raw", 3))


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: original(file, content[:100], place))
    store, _ = build(tmp_path / "store", make_clips(tmp_path / "raw", 2))
    check_rows(store, 2)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGSEGV", r"crashed \(SIGSEGV\)"),
        ("SIGKILL", "was killed .SIGKILL., as happens when memory runs out"),
        ("exit", "ended .status 9"),
    ],
)
def test_a_clip_that_ends_processes_is_named_and_the_only_one_lost(tmp_path, how, said):
    clips = make_clips(tmp_path / "raw", 40)
    deadly = {"visual": Deadly(clips[30].files["visual"], how), "audio": Deadly(clips[7].files["audio"], how)}
    bad = [
        replace(clips[number], files={**clips[number].files, name: deadly[name]})
        for number, name in ((30, "visual"), (7, "audio"))
    ]
    given = [next((item for item in bad if item.sample == clip.sample), clip) for clip in clips]
    store, failures = build(tmp_path / "store", given, workers=2)
    assert [(failure.sample, failure.modality) for failure in failures] == [("s7", "audio"), ("s30", "visual")]
    for failure in failures:
        assert re.search(f"the process that decoded it {said}", failure.reason)
    assert set(store.line_index("sample")) == {f"s{number}" for number in range(40)} - {"s7", "s30"}
    again, same = build(tmp_path / "store", given)
    assert same == failures, "not tried again in the process of the command, which would die of it"
    assert again.columns["row"].to_pylist() == store.columns["row"].to_pylist()


def test_a_clip_that_lacks_memory_is_named_and_tried_again(tmp_path, monkeypatch):
    clips = make_clips(tmp_path / "raw", 3)
    original = decoding.audio_features

    def without_memory(path, *rest):
        if path == clips[1].files["audio"]:
            raise MemoryError("Unable to allocate 128. GiB")
        return original(path, *rest)

    monkeypatch.setattr(decoding, "audio_features", without_memory)
    store, (failure,) = build(tmp_path / "store", clips)
    assert (failure.sample, failure.modality) == ("s1", "audio")
    assert re.fullmatch(r"needs more than 2,048 MiB of memory|needs more memory than there is", failure.reason)
    assert set(store.line_index("sample")) == {"s0", "s2"}
    monkeypatch.setattr(decoding, "audio_features", original)
    store, failures = build(tmp_path / "store", clips)
    assert failures == []
    check_rows(store, 3)


def test_decoding_processes_have_a_limit_of_memory(tmp_path):
    """Whose file is too large is named, and the process goes on with the next."""
    if sys.platform != "linux":
        pytest.skip("only Linux limits the memory of a process")
    clips = make_clips(tmp_path / "raw", 20)
    greedy = replace(clips[5], files={**clips[5].files, "visual": Greedy(clips[5].files["visual"])})
    store, (failure,) = build(tmp_path / "store", [*clips[:5], greedy, *clips[6:]], workers=2)
    assert (failure.sample, failure.reason) == ("s5", "needs more than 2,048 MiB of memory")
    assert set(store.line_index("sample")) == {f"s{number}" for number in range(20)} - {"s5"}


def test_another_recipe_is_another_key_and_a_renamed_store_is_refused(tmp_path):
    larger = replace(RECIPE, frame_edge=16)
    assert larger.key(KINDS) != RECIPE.key(KINDS) != RECIPE.key({"audio": "sound"})
    assert RECIPE.key(KINDS) == RECIPE.key(dict(reversed(KINDS.items())))
    clips = make_clips(tmp_path / "raw", 1)
    build(tmp_path / "store", clips)
    with pytest.raises(UserError, match="prepared with a different recipe"):
        build_store(tmp_path / "store", clips, larger, KINDS, workers=1, progress=False)


def test_a_folder_of_frames_is_identified_and_hashed_by_its_frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2):
        Image.fromarray(np.full((6, 9, 3), number, np.uint8)).save(folder / f"{number}.png")
    first = identify("s", {"visual": folder}, {"visual": "frames"})
    assert first == identify("s", {"visual": folder}, {"visual": "frames"})
    hashed = content_hash(folder)
    Image.fromarray(np.full((6, 9, 3), 9, np.uint8)).save(folder / "2.png")
    os.utime(folder / "2.png", (1, 1))
    assert identify("s", {"visual": folder}, {"visual": "frames"}) != first
    assert content_hash(folder) != hashed


def test_a_script_without_a_main_guard_is_told_so_and_does_not_wait_for_itself(tmp_path):
    """Decoding processes import the script, which would start over and wait for the lock that the first one holds."""
    clips = make_clips(tmp_path / "raw", 3)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from tests.data.test_store import build, make_clips\n"
        f"build(Path({str(tmp_path / 'store')!r}), make_clips(Path({str(tmp_path / 'raw')!r}), {len(clips)}), workers=2)\n"
    )
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
    )  # fmt: skip
    assert ended.returncode != 0
    assert "a decoding process has imported your script, which prepares data at once" in ended.stderr
    assert "a script that prepares data outside" in ended.stderr.splitlines()[-1]
