"""A user's data: `prepare` through `mlflow run`, killed and continued, then trained on; videos through a manifest."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data.media import write_video
from tests.data.raw import cremad_clips, make_cremad
from tests.data.test_frames import GRID
from tests.test_end_to_end import all_runs, by_stage, client, environment, mlflow_run, python_run

pytestmark = pytest.mark.slow
SMALL = {"encoder": "resnet_narrow", "image_size": "28", "batch_size": "8", "device": "cpu"}


@pytest.fixture
def store(tmp_path):
    return environment(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


def parameters(**values):
    return [word for name, value in values.items() for word in ("-P", f"{name}={value}")]


def clips(count):
    every = cremad_clips()
    return every[:count] + every[6698 : 6698 + count // 4]


def artifacts(env, run, folder):
    return {item.path for item in client(env).list_artifacts(run.info.run_id, folder)}


def test_prepare_and_train_cremad_through_mlflow_run(store, tmp_path):
    source = make_cremad(tmp_path / "CREMA-D", clips=clips(120))
    strict = mlflow_run(
        store, *parameters(dataset="cremad", source=source, image_size=28), entry_point="prepare", cwd=tmp_path
    )
    assert strict.returncode == 1
    assert "7289 bad row(s)" in strict.stderr
    assert {run.info.status for run in all_runs(store)} == {"FAILED"}

    words = parameters(dataset="cremad", source=source, image_size=28, on_error="skip")
    done = mlflow_run(store, *words, entry_point="prepare", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cremad: train 108, val 12, test 30; skipped 7,289, excluded 3" in done.stdout
    assert "1076_MTI_SAD_XX: no sound and an error picture" in done.stdout
    run = by_stage(store)["prepare"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "data/train": 108, "data/val": 12, "data/test": 30, "data/skipped": 7289, "data/excluded": 3
    }  # fmt: skip
    assert artifacts(store, run, "data") == {"data/card.md", "data/contact_sheet.png", "data/samples.parquet"}
    table = pq.read_table(client(store).download_artifacts(run.info.run_id, "data/samples.parquet", str(tmp_path)))
    assert {"sample", "split", "actor", "voice_vote", "audio_sha256", "visual_seconds"} <= set(table.column_names)

    trained = mlflow_run(store, *parameters(dataset="cremad", preset="quick", on_error="skip", **SMALL), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-3000:]
    runs = by_stage(store)
    parent = runs["main"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["config/recipe"] == "stft257"
    assert parent.inputs.dataset_inputs[0].dataset.name == "cremad"
    assert parent.data.tags["mm.data_digest"] == run.data.tags["mm.data_digest"]
    assert artifacts(store, parent, "data") >= {"data/card.md", "data/contact_sheet.png"}


def start_prepare(env, source):
    return subprocess.Popen(
        [sys.executable, "-m", "entrypoints.prepare", "--dataset", "cremad", "--source", str(source), "--image_size", "28",
         "--on_error", "skip", "--workers", "2"],
        env=env, cwd=env["WORKING_FOLDER"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def decoded(cache):
    journals = list(cache.rglob("journal.jsonl"))
    return len(journals[0].read_text("utf-8").splitlines()) - 1 if journals else 0


def processes_with(text):
    """Ids of the processes whose environment holds ``text`` (where the system tells)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_prepare_killed_half_way_goes_on(store, tmp_path, number):
    source = make_cremad(tmp_path / "CREMA-D", clips=clips(400))
    cache = tmp_path / "cache"
    process = start_prepare(store, source)
    while decoded(cache) < 64:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    assert len(processes_with(str(cache))) > 2, "the check below sees workers"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM), errors
    time.sleep(2)
    kept = decoded(cache)
    assert 64 <= kept < 500, "it was not half-way"
    assert not processes_with(str(cache)), "processes outlive their parent"
    assert not [run for run in all_runs(store) if run.info.status == "RUNNING"]
    if number == signal.SIGTERM:
        return
    done = python_run(
        store, "prepare", "--dataset", "cremad", "--source", str(source), "--image_size", "28", "--on_error", "skip"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cremad: train 360, val 40, test 100" in done.stdout
    assert decoded(cache) == 500
    assert not [run for run in all_runs(store) if run.info.status == "RUNNING"]


def test_videos_with_sound_train_through_a_manifest(store, tmp_path):
    """The real talking faces where they are at hand, else films of the same format."""
    folder = tmp_path / "films é"
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
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")
    words = {**SMALL, "batch_size": "4", "augment": "resized_crop_flip", "frames": "2"}
    done = mlflow_run(
        store, *parameters(dataset=folder / "manifest.csv", preset="quick", train_fraction="1.0", **words), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parent = by_stage(store)["main"]
    assert parent.info.status == "FINISHED"
    assert artifacts(store, parent, "data") == {"data/card.md", "data/contact_sheet.png", "data/samples.parquet"}
    (folder / "clip 3.mpg").write_bytes(b"broken")
    words = [word for name, value in {**words, "preset": "quick"}.items() for word in (f"--{name}", value)]
    again = python_run(store, "warmup", "--dataset", str(folder / "manifest.csv"), *words)
    assert again.returncode == 1
    assert "line 5, sample '3', file 'clip 3.mpg'" in again.stderr
    skipped = python_run(store, "warmup", "--dataset", str(folder / "manifest.csv"), "--on_error", "skip", *words)
    assert skipped.returncode == 0, skipped.stderr[-3000:]
