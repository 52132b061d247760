"""A user's data: prepared, killed and continued, then trained on; videos through a manifest."""

import signal
import time

import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import artifacts, by_stage, do, fetch, runs, spelled
from tests.helpers.media import GRID, write_video
from tests.helpers.processes import session_of, start_command, wait_for
from tests.helpers.raw import cremad_clips, grid_names, make_cremad, make_grid

pytestmark = pytest.mark.slow
SMALL = "encoder=resnet_narrow image_size=28 batch_size=8 device=cpu"


def clips(count):
    every = cremad_clips()
    return every[:count] + every[6698 : 6698 + count // 4]


def test_cremad_is_prepared_and_trained_on(store, launch):
    source = make_cremad(store / "CREMA-D", clips=clips(120))
    strict = launch("prepare", "dataset=cremad image_size=28", source=source)
    assert strict.status == 1
    assert "7289 bad row(s)" in strict.errors
    assert {run.info.status for run in runs()} == {"FAILED"}

    done = launch("prepare", "dataset=cremad image_size=28 on_error=skip", source=source)
    assert done.status == 0, done.errors[-3000:]
    assert "cremad: train 108, val 12, test 30; skipped 7,289, excluded 3" in done.said
    assert "1076_MTI_SAD_XX: no sound and an error image" in done.said
    run = by_stage()["prepare"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "data/train": 108, "data/val": 12, "data/test": 30, "data/skipped": 7289, "data/excluded": 3
    }  # fmt: skip
    assert artifacts(run, "data") == {"data/card.md", "data/contact_sheet.png", "data/samples.parquet"}
    table = pq.read_table(fetch(run, "data/samples.parquet"))
    assert {"sample", "split", "actor", "voice_vote", "audio_sha256", "visual_seconds"} <= set(table.column_names)

    trained = launch("main", f"dataset=cremad preset=quick on_error=skip {SMALL}")
    assert trained.status == 0, trained.errors[-3000:]
    parent = by_stage()["main"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["config/recipe"] == "stft257"
    assert parent.inputs.dataset_inputs[0].dataset.name == "cremad"
    assert parent.data.tags["mm.data_digest"] == run.data.tags["mm.data_digest"]
    assert artifacts(parent, "data") >= {"data/card.md", "data/contact_sheet.png"}


def test_grid_is_cut_prepared_and_trained_on(store, capsys):
    source = make_grid(store / "GRID", grid_names(10, "af"))
    (source / "alignments" / "s1" / "bbiaza.align").unlink()
    assert do("prepare", "dataset=grid workers=1", source=source) == 1
    assert "sentence 's1_bbiaza': no alignment bbiaza.align" in capsys.readouterr().err
    assert do("prepare", "dataset=grid workers=1 on_error=skip", source=source) == 0
    assert "grid: train 13, val 2, test 4; skipped 1" in capsys.readouterr().out
    assert do("train", "dataset=grid on_error=skip method=concat epochs=1 refit_every=1 batch_size=4 device=cpu") == 0
    run = by_stage()["train"]
    assert run.data.params["config/frames_as"] == "channels"
    assert run.inputs.dataset_inputs[0].dataset.name == "grid"


def decoded(cache):
    journals = list(cache.rglob("journal.jsonl"))
    return len(journals[0].read_text("utf-8").splitlines()) - 1 if journals else 0


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.verify)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_prepare_killed_half_way_goes_on(store, capsys, number, forked):
    source = make_cremad(store / "CREMA-D", clips=clips(400))
    words = "dataset=cremad image_size=28 on_error=skip"
    process = start_command(store, "prepare", spelled(f"{words} workers=2", source=source), forked=forked)
    wait_for(lambda: decoded(store / "cache") >= 64, process)
    assert len(session_of(process.pid)) > 2, "the check below sees workers"
    process.send_signal(number)
    process.wait(timeout=60)
    expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM
    assert process.returncode == expected, process.said()
    last = time.monotonic() + 30
    while session_of(process.pid) and time.monotonic() < last:
        time.sleep(0.1)
    assert not session_of(process.pid), "processes outlive their parent"
    kept = decoded(store / "cache")
    assert 64 <= kept < 500, "it was not half-way"
    assert not [run for run in runs() if run.info.status == "RUNNING"]
    if number == signal.SIGTERM:
        return
    assert do("prepare", f"{words} workers=1", source=source) == 0
    assert "cremad: train 360, val 40, test 100" in capsys.readouterr().out
    assert decoded(store / "cache") == 500
    assert not [run for run in runs() if run.info.status == "RUNNING"]


def test_videos_with_sound_train_through_a_manifest(store, launch, capsys):
    """The real talking faces where they are at hand, else films of the same format."""
    folder = store / "films é"
    folder.mkdir()
    real = sorted(GRID.glob("*.mpg")) if GRID.is_dir() else []
    for number in range(11):
        target = folder / f"clip {number}.mpg"
        if real:
            target.write_bytes(real[number].read_bytes())
        else:
            write_video(target, seconds=3.0, size=(360, 288), frequency=300 + 40 * number)
    lines = ["sample,split,label,audio,visual"]
    for number in range(11):
        split = "train" if number < 7 else "val" if number < 9 else "test"
        lines.append(f"{number},{split},{'ab'[number % 2]},clip {number}.mpg,clip {number}.mpg")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n", "utf-8")
    words = f"{SMALL} preset=quick augment=resized_crop_flip frames=2".replace("batch_size=8", "batch_size=4")
    done = launch("main", f"{words} train_fraction=1.0", dataset=manifest)
    assert done.status == 0, done.errors[-3000:]
    parent = by_stage()["main"]
    assert parent.info.status == "FINISHED"
    assert artifacts(parent, "data") == {"data/card.md", "data/contact_sheet.png", "data/samples.parquet"}
    (folder / "clip 3.mpg").write_bytes(b"broken")
    assert do("warmup", words, dataset=manifest) == 1
    assert "line 5, sample '3', file 'clip 3.mpg'" in capsys.readouterr().err
    assert do("warmup", f"{words} on_error=skip", dataset=manifest) == 0
