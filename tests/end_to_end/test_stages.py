"""A user's day: the whole recipe, bad values, kill and resume, an http server, the model back from MLflow."""

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.functional.mixture import Mixture
from mm_balance.names import REFIT_METRICS
from tests.helpers.commands import (
    QUICK,
    adopt,
    artifact_folder,
    artifacts,
    by_stage,
    do,
    fetch,
    images,
    newest,
    runs,
    series,
    spelled,
    steps,
)
from tests.helpers.models import check_model, check_model_elsewhere
from tests.helpers.processes import mlflow_run, start_command, wait_for
from tests.helpers.servers import tracking_server
from tests.helpers.stores import store_of_a_fixture

pytestmark = pytest.mark.slow
SHORT = "preset=quick device=cpu"


def test_the_whole_recipe_through_mlflow_run(store):
    done = mlflow_run(store, "main", f"{SHORT} loss_form=prose")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test accuracy: fused" in done.stdout
    assert "link: http://127.0.0.1:5000/#/experiments/0/runs/" in done.stdout
    found = by_stage()
    assert set(found) == {"main", "warmup", "adaptive", "evaluate"}
    assert all(run.info.status == "FINISHED" for run in found.values())
    parent, adaptive = found["main"], found["adaptive"]
    for stage in ("warmup", "adaptive", "evaluate"):
        assert found[stage].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params["config/loss_form"] == "prose"
    assert parent.data.params["loss_form"] == "prose"  # what `mlflow run` logged before we started
    assert {"test/accuracy", "test/accuracy_audio", "test/accuracy_visual", "val/accuracy"} <= set(parent.data.metrics)
    assert not [name for name in adaptive.data.metrics if name.startswith("test/")]
    assert parent.data.tags["mlflow.note.content"].startswith("Test accuracy: fused **")
    assert parent.inputs.dataset_inputs[0].dataset.name == "digits"
    check_refits(adaptive, parent, store)
    check_model_elsewhere(store, parent)

    assert do("evaluate", f"run_id={parent.info.run_id} split=val") == 0
    assert newest(evaluated_run=parent.info.run_id).data.metrics["val/accuracy"] == parent.data.metrics["val/accuracy"]
    assert do("adaptive", f"{SHORT} mixture=three") == 0  # finds the warm-up above by fingerprint
    assert newest(stage="adaptive").data.tags["mm.warmup_run"] == found["warmup"].info.run_id


def check_refits(adaptive, parent, folder):
    assert set(steps(adaptive, "gmm/bic")) == {2, 3, 4}
    assert set(REFIT_METRICS) <= set(adaptive.data.metrics)
    refit = fetch(adaptive, "refits/epoch_0004", folder / "fetched")
    assert {item.name for item in refit.iterdir()} == {
        "mixture.json", "density.png", "gaps.parquet", "validation_mixture.json", "validation_gaps.parquet"
    }  # fmt: skip
    table = pd.read_parquet(refit / "gaps.parquet")
    mixture = Mixture.from_json((refit / "mixture.json").read_text())
    assert np.allclose(table["gap"], table["p_audio"] - table["p_visual"])
    assert np.allclose(table["posterior_imbalanced"], mixture.posterior_imbalanced(table["gap"].to_numpy()))
    assert len(images(adaptive)) == 3
    figures = {f"figures/{name}" for name in ("gap_mixture", "mixture_evolution", "unimodal_accuracy")}
    assert artifacts(parent, "figures") == {f"{name}{suffix}" for name in figures for suffix in (".png", ".pdf")}
    assert not artifacts(adaptive, "figures")
    assert json.loads(fetch(adaptive, "config.json").read_text())["loss_form"] == "prose"
    state = torch.load(fetch(adaptive, "checkpoints/last"), weights_only=True)
    assert state["progress"]["stage_epoch"] == 2


def test_bad_values_leave_a_failed_run_that_says_why(launch):
    done = launch("main", "anneal=foo")
    assert done.status == 1
    assert "mm-balance: error: anneal=foo is not known" in done.errors
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert "anneal=foo" in run.data.tags["mm.error"]


def test_warm_ups_that_do_not_fit_are_refused(store, capsys):
    assert do("warmup", QUICK) == 0
    run = by_stage()["warmup"].info.run_id

    def refused(words=""):
        assert do("adaptive", f"{QUICK} warmup_run={run} {words}") == 1
        return capsys.readouterr().err

    assert "was trained on different data" in refused("corruption=0.2")
    assert "was trained with fusion=concat" in refused("fusion=sum")
    assert "the warm-up used another optimizer" in refused("optimizer=adam optimizer_state=keep")
    MlflowClient().set_terminated(run, "FAILED")
    assert "has not finished (status FAILED)" in refused()
    assert not [item for item in runs() if item.info.status == "RUNNING"]


EPOCHS = f"{SHORT} warmup_epochs=2 adaptive_epochs=4"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, empty_database):
    """The series of a run that nobody killed."""
    with store_of_a_fixture(tmp_path_factory.mktemp("unbroken"), empty_database):
        assert do("main", EPOCHS) == 0
        found = series()
    return found


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.verify)])
@pytest.mark.parametrize(
    ("stage", "step", "number"),
    [
        pytest.param("warmup", 1, signal.SIGKILL, marks=pytest.mark.verify),
        pytest.param("adaptive", 4, signal.SIGKILL, marks=pytest.mark.verify),
        pytest.param("adaptive", 3, signal.SIGTERM, marks=pytest.mark.verify),
    ],
)
def test_killed_and_resumed_is_the_same_to_the_last_bit(
    unbroken, store, monkeypatch, launch_resumed, stage, step, number, forked
):
    process = start_command(store, "main", spelled(EPOCHS), forked=forked)
    wait_for(
        lambda: stage in (found := by_stage()) and max(steps(found[stage], "val/loss"), default=0) >= step, process
    )
    process.send_signal(number)
    process.wait(timeout=60)
    parent = by_stage()["main"]
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "resume_run=" + parent.info.run_id in process.said()
        assert {run.info.status for run in runs()} == {"FINISHED", "KILLED"}
    else:
        assert process.returncode == -signal.SIGKILL
    if step == 4:  # the upload was cut short as well: the local copy serves
        uploaded = artifact_folder(by_stage()["adaptive"]) / "checkpoints" / "last"
        uploaded.write_bytes(uploaded.read_bytes()[:1000])

    launch_resumed(parent.info.run_id, forked)
    extra = [run for run in runs() if "resumed_run" in run.data.tags]
    assert [run.data.tags["resumed_run"] for run in extra] == [parent.info.run_id]
    assert {run.info.status for run in runs()} == {"FINISHED"}
    MlflowClient().delete_run(extra[0].info.run_id)
    assert series() == unbroken
    assert len(images(by_stage()["adaptive"])) == 5
    assert not list((store / "cache" / "runs").glob("*/*"))


@pytest.fixture
def launch_resumed(store, monkeypatch):
    def launch(run_id, in_process):
        if in_process:
            status, _ = adopt(monkeypatch, "main", f"resume_run={run_id}")
            assert status == 0
        else:
            done = mlflow_run(store, "main", f"resume_run={run_id}")
            assert done.returncode == 0, done.stderr[-3000:]

    return launch


def test_resuming_with_other_settings_is_refused(store, capsys):
    assert do("warmup", QUICK) == 0
    run = by_stage()["warmup"]
    assert do("warmup", f"resume_run={run.info.run_id} learning_rate=0.5") == 1
    assert "it cannot be resumed with learning_rate=0.5" in capsys.readouterr().err
    assert do("adaptive", f"resume_run={run.info.run_id}") == 1
    assert "is a run of warmup" in capsys.readouterr().err
    assert do("warmup", f"resume_run={run.info.run_id} warmup_epochs=3") == 0
    assert sorted(steps(run, "val/loss")) == [1, 2, 3]


@pytest.fixture
def server(store, monkeypatch):
    """The address of a real tracking server that proxies artifacts, which this process uses."""
    import mlflow

    with tracking_server(store) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflow.set_tracking_uri(address)
        yield address


@pytest.mark.verify
def test_the_whole_recipe_on_an_http_tracking_server(server, store, launch):
    done = launch("main", f"{QUICK} refit_every=1")
    assert done.status == 0, done.errors[-3000:]
    found = by_stage()
    assert all(run.info.status == "FINISHED" for run in found.values())
    assert f"link: {server}/#/experiments/0/runs/{found['main'].info.run_id}" in done.said
    check_model(found["main"])
    assert set(steps(found["adaptive"], "gmm/bic")) == {2, 3, 4}


def test_a_folder_of_ones_own_images_and_sounds_trains(store, launch):
    import soundfile
    from PIL import Image

    folder = store / "my clips é"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = ["sample,split,label,audio,visual"]
    for index in range(48):
        label = index % 2
        time_axis = np.arange(8000) / 16000
        sound = 0.3 * np.sin(2 * np.pi * (400 + 900 * label) * time_axis) + 0.05 * generator.standard_normal(8000)
        audio = f"sound {index}.{('wav', 'flac', 'ogg')[index % 3]}"
        visual = f"bild {index}.{('png', 'jpg')[index % 2]}"
        soundfile.write(folder / audio, sound, 16000)
        picture = generator.integers(0, 60, (40, 48, 3)) + 120 * label
        Image.fromarray(picture.astype(np.uint8)).save(folder / visual)
        split = "test" if index >= 40 else "train"
        rows.append(f"c{index},{split},{'ja' if label else 'nein'},{audio},{visual}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", "utf-8")
    words = (
        "encoder=resnet_narrow image_size=32 clip_seconds=0.5 warmup_epochs=5 adaptive_epochs=5 refit_every=1 "
        "batch_size=8 learning_rate=0.02 device=cpu"
    )
    done = launch("main", words, dataset=folder / "manifest.csv")
    assert done.status == 0, done.errors[-3000:]
    assert by_stage()["main"].data.metrics["test/accuracy"] > 0.8
    shutil.rmtree(folder)
