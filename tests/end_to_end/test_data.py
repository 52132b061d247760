"""A user's data: prepared, killed and continued, then trained on; videos through a manifest."""

import csv
import shutil
import signal
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.commands import artifacts, by_stage, do, fetch, runs, spelled
from tests.helpers.manifests import Folder
from tests.helpers.media import GRID, WATCH, write_video
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
        "data/train": 108, "data/val": 12, "data/test": 30, "data/skipped": 7289, "data/excluded": 3,
        "data/duplicates": 42,  # all of them: the stand-in for every clip is the same
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

    assert do("report") == 0
    (line,) = csv.DictReader(fetch(by_stage()["report"], "tables/human_agreement.csv").read_text().splitlines())
    assert (line["method"], line["n"], line["run"]) == ("gap_mixture", "12", parent.info.run_id)
    assert -1 <= float(line["low"]) <= float(line["correlation"]) <= float(line["high"]) <= 1


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
@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.verify), signal.SIGTERM])
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


@pytest.mark.verify
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


@pytest.mark.verify
def test_media_on_another_disk_are_used_if_that_is_allowed_and_the_run_says_so(store, tmp_path, capsys):
    folder = Folder(tmp_path).fill()
    (tmp_path / "disk").mkdir()
    for row in folder.rows:
        (folder.path / row["audio"]).rename(tmp_path / "disk" / row["audio"])
        row["audio"] = str(tmp_path / "disk" / row["audio"])
    manifest = folder.write()
    words = f"{SMALL} preset=quick batch_size=2 data_dir={tmp_path / 'data'}"
    assert do("prepare", f"data_dir={tmp_path / 'data'}", dataset=manifest) == 1
    assert (
        "the path is absolute; use a path relative to the manifest, or allow this with allow_outside=true"
        in capsys.readouterr().err
    )
    assert do("prepare", f"data_dir={tmp_path / 'data'} allow_outside=true", dataset=manifest) == 0
    assert by_stage()["prepare"].data.tags["config/allow_outside"] == "true"
    assert do("main", f"{words} allow_outside=true", dataset=manifest) == 0
    parent = by_stage()["main"]
    assert parent.data.tags["config/allow_outside"] == "true"
    assert do("evaluate", f"run_id={parent.info.run_id} data_dir={tmp_path / 'data'}") == 0, (
        "its configuration allows it"
    )


SENSORS = ("accelerometer", "gyroscope")


def write_sensors(folder):
    """A manifest of two sensors, drawn as pictures: a few real windows where they are at hand, else gray ones; 16/4/4 samples."""
    wanted = {"train": 8, "val": 2, "test": 2}
    rows = []
    if WATCH.is_dir():
        taken = Counter()
        with (WATCH / "manifest.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                taken[row["split"], row["label"]] += 1
                if row["label"] in ("PEN", "FEL") and taken[row["split"], row["label"]] <= wanted[row["split"]]:
                    rows.append(row)
    else:
        rows = [
            {"sample": f"{split}{label}{number}", "split": split, "label": label, "group": f"subject {split}",
             **{name: f"{name}/{split}{label}{number}.png" for name in SENSORS}}
            for split, count in wanted.items() for label in ("PEN", "FEL") for number in range(count)
        ]  # fmt: skip
    for row in rows:
        for name in SENSORS:
            target = folder / row[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            if WATCH.is_dir():
                shutil.copy(WATCH / row[name], target)
            else:
                Image.new("L", (128, 48), 200 if row["label"] == "PEN" else 40).save(target)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["sample", "split", "label", *SENSORS, "group"])
        writer.writeheader()
        writer.writerows(rows)
    return manifest


@pytest.mark.verify
def test_sensors_of_other_names_have_their_single_modality_controls(store, capsys):
    manifest = write_sensors(store)
    words = f"{SMALL} modalities=accelerometer,gyroscope preset=quick train_fraction=1.0"
    assert do("train", f"{words} method=audio_only", dataset=manifest) == 1
    assert "there are accelerometer, gyroscope: give method=one_modality" in capsys.readouterr().err
    assert do("train", f"{words} method=one_modality", dataset=manifest) == 1
    assert "method one_modality needs a modality; there are accelerometer" in capsys.readouterr().err
    for name, other in (SENSORS, SENSORS[::-1]):
        alone = f"epochs=1 method=one_modality method_options=modality={name}"
        assert do("train", f"{words} {alone}", dataset=manifest) == 0
        run = by_stage()["train"].data
        assert run.params["method/modality"] == name
        assert run.metrics["val/accuracy"] == run.metrics[f"val/accuracy_{name}"]
        assert run.metrics[f"val/accuracy_{other}"] == 0.5, "zero logits: one class of two, always the same"
        assert run.metrics["cost/relative"] == pytest.approx(0.5)
    assert do("main", f"{words} warmup_epochs=1 adaptive_epochs=1 method=concat_unimodal", dataset=manifest) == 0
    assert "accelerometer" in capsys.readouterr().out
