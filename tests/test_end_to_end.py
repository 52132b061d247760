"""A user's day: `mlflow run`, bad values, kill and resume, an http server, the model back from MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.functional.mixture import Mixture
from mm_balance.names import REFIT_METRICS

ROOT = Path(__file__).parent.parent
QUICK = ["-P", "preset=quick", "-P", "device=cpu"]
pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path):
    """A sqlite store and a cache of one's own."""
    return environment(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")


def environment(folder: Path, uri: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | {
        "MLFLOW_TRACKING_URI": uri,
        "MM_BALANCE_CACHE": str(folder / "cache"),
        "WORKING_FOLDER": str(folder),  # where a store in a file keeps its artifacts
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def mlflow_run(env, *words, entry_point="main", cwd=None):
    command = ["mlflow", "run", str(ROOT), "--env-manager", "local", "-e", entry_point, *words]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def python_run(env, entry_point, *words):
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{entry_point}", *words],
        env=env, cwd=env["WORKING_FOLDER"], capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def client(env) -> MlflowClient:
    return MlflowClient(tracking_uri=env["MLFLOW_TRACKING_URI"])


def all_runs(env):
    found = client(env)
    return found.search_runs([item.experiment_id for item in found.search_experiments()])


def by_stage(env):
    return {run.data.tags.get("mm.stage"): run for run in all_runs(env)}


def test_main_through_mlflow_run(store, tmp_path):
    done = mlflow_run(store, *QUICK, "-P", "loss_form=prose", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test accuracy: fused" in done.stdout
    assert "link: http://127.0.0.1:5000/#/experiments/0/runs/" in done.stdout
    runs = by_stage(store)
    assert set(runs) == {"main", "warmup", "adaptive", "evaluate"}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    parent = runs["main"]
    for stage in ("warmup", "adaptive", "evaluate"):
        assert runs[stage].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params["config/loss_form"] == "prose"
    assert parent.data.params["loss_form"] == "prose"  # what `mlflow run` logged before we started
    assert {"test/accuracy", "test/accuracy_audio", "test/accuracy_visual", "val/accuracy"} <= set(parent.data.metrics)
    assert not [name for name in runs["adaptive"].data.metrics if name.startswith("test/")]
    assert parent.data.tags["mlflow.note.content"].startswith("Test accuracy: fused **")
    assert parent.inputs.dataset_inputs[0].dataset.name == "digits"

    reader = client(store)
    adaptive = runs["adaptive"].info.run_id
    assert {point.step for point in reader.get_metric_history(adaptive, "gmm/bic")} == {2, 3, 4}
    assert set(REFIT_METRICS) <= set(runs["adaptive"].data.metrics)
    folder = Path(reader.download_artifacts(adaptive, "refits/epoch_0004", str(tmp_path)))
    assert {item.name for item in folder.iterdir()} == {"mixture.json", "density.png", "gaps.parquet"}
    table = pd.read_parquet(folder / "gaps.parquet")
    mixture = Mixture.from_json((folder / "mixture.json").read_text())
    assert np.allclose(table["gap"], table["p_audio"] - table["p_visual"])
    assert np.allclose(table["posterior_imbalanced"], mixture.posterior_imbalanced(table["gap"].to_numpy()))
    images = [item.path for item in reader.list_artifacts(adaptive, "images") if item.path.endswith(".png")]
    assert len(images) == 3
    assert len(reader.list_artifacts(parent.info.run_id, "figures")) == 3
    assert not reader.list_artifacts(adaptive, "figures")
    config = json.loads(Path(reader.download_artifacts(adaptive, "config.json", str(tmp_path))).read_text())
    assert config["loss_form"] == "prose"
    assert torch.load(
        reader.download_artifacts(adaptive, "checkpoints/last", str(tmp_path)), weights_only=True
    )["progress"]["stage_epoch"] == 2  # fmt: skip

    check_model(store, parent, tmp_path)
    evaluated = python_run(store, "evaluate", "--run_id", parent.info.run_id, "--split", "val")
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    newest = max(
        (run for run in all_runs(store) if "mm.evaluated_run" in run.data.tags), key=lambda r: r.info.start_time
    )
    assert newest.data.metrics["val/accuracy"] == parent.data.metrics["val/accuracy"]

    again = python_run(store, "adaptive", "--preset", "quick", "--device", "cpu", "--mixture", "three")
    assert again.returncode == 0, again.stderr[-2000:]  # finds the warm-up above by fingerprint
    three = max(
        (run for run in all_runs(store) if run.data.tags["mm.stage"] == "adaptive"), key=lambda r: r.info.start_time
    )
    assert three.data.tags["mm.warmup_run"] == runs["warmup"].info.run_id


def check_model(env, run, tmp_path):
    """Without pickle, in a process that has no MM-Balance on its path, from the logged code alone."""
    code = """
import sys, numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
signature = {item.name: item.shape for item in model.metadata.get_input_schema().inputs}
batch = {name: np.zeros((5, *shape[1:]), dtype=item.type) for (name, shape), item in
         zip(signature.items(), model.metadata.get_input_schema().inputs)}
found = model.predict(batch)
assert set(found) == {"fused", "audio", "visual"}, found
assert all(value.shape == (5, 10) and np.allclose(value.sum(1), 1, atol=1e-5) for value in found.values())
import mm_balance, pathlib
assert pathlib.Path(mm_balance.__file__).parts[-3] == "code", mm_balance.__file__
"""
    uri = f"models:/{run.outputs.model_outputs[-1].model_id}"
    env = env | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-c", code, uri], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_bad_values_through_mlflow_run_leave_a_failed_run_that_says_why(store, tmp_path):
    done = mlflow_run(store, "-P", "anneal=foo", cwd=tmp_path)
    assert done.returncode == 1
    assert "mm-balance: error: anneal=foo is not known" in done.stderr
    (run,) = all_runs(store)
    assert run.info.status == "FAILED"
    assert "anneal=foo" in run.data.tags["mm.error"]


def test_warm_ups_that_do_not_fit_are_refused(store):
    assert python_run(store, "warmup", "--preset", "quick", "--device", "cpu").returncode == 0
    run = by_stage(store)["warmup"].info.run_id

    def refused(*words):
        done = python_run(store, "adaptive", "--preset", "quick", "--warmup_run", run, *words)
        assert done.returncode == 1
        return done.stderr

    assert "was trained on different data" in refused("--corruption", "0.2")
    assert "was trained with fusion=concat" in refused("--fusion", "sum")
    assert "the warm-up used another optimizer" in refused("--optimizer", "adam", "--optimizer_state", "keep")
    client(store).set_terminated(run, "FAILED")
    assert "has not finished (status FAILED)" in refused()
    assert not [item for item in all_runs(store) if item.info.status == "RUNNING"]


MEASURED = ("train/samples_per_second", "cost/step_milliseconds", "cost/peak_memory_megabytes")
"""What is of the machine, not of the training, beside ``time/...``."""


def series(env):
    """Every metric of every stage, times and memory left out."""
    reader = client(env)
    found = {}
    for stage, run in by_stage(env).items():
        for name in run.data.metrics:
            if not name.startswith("time/") and name not in MEASURED:
                points = [(point.step, point.value) for point in reader.get_metric_history(run.info.run_id, name)]
                assert len(points) == len({step for step, _ in points}), f"{stage} {name} has a step twice"
                found[stage, name] = sorted(points)
    return found


def start(env, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "entrypoints.main", "--preset", "quick", "--device", "cpu", *words],
        env=env, cwd=env["WORKING_FOLDER"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_steps(env, stage, step, process, seconds=120):
    reader = client(env)
    for _ in range(seconds * 20):
        run = by_stage(env).get(stage)
        seen = reader.get_metric_history(run.info.run_id, "val/loss") if run is not None else []
        if seen and max(point.step for point in seen) >= step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it never got there")


EPOCHS = ["--warmup_epochs", "2", "--adaptive_epochs", "4"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The series of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    whole = environment(folder / "whole", f"sqlite:///{folder}/whole.db")
    assert python_run(whole, "main", "--preset", "quick", "--device", "cpu", *EPOCHS).returncode == 0
    return series(whole)


@pytest.mark.parametrize(("stage", "step", "number"), [("warmup", 1, signal.SIGKILL), ("adaptive", 4, signal.SIGKILL),
                                                       ("adaptive", 3, signal.SIGTERM)])  # fmt: skip
def test_killed_and_resumed_is_the_same_to_the_last_bit(tmp_path, monkeypatch, unbroken, stage, step, number):
    broken = environment(tmp_path / "broken", f"sqlite:///{tmp_path}/broken.db")
    # Whoever asks first makes the store, and its artifact folder under the working folder: here, before both ask.
    monkeypatch.chdir(broken["WORKING_FOLDER"])
    client(broken).search_experiments()
    process = start(broken, *EPOCHS)
    wait_for_steps(broken, stage, step, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    parent = by_stage(broken)["main"]
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "resume_run=" + parent.info.run_id in errors
        assert {run.info.status for run in all_runs(broken)} == {"FINISHED", "KILLED"}
    else:
        assert process.returncode == -signal.SIGKILL
    if step == 4:  # the upload was cut short as well: the local copy serves
        (uploaded,) = [
            path
            for path in (tmp_path / "broken").rglob("artifacts/checkpoints/last")
            if by_stage(broken)["adaptive"].info.run_id in str(path)
        ]
        uploaded.write_bytes(uploaded.read_bytes()[:1000])

    resumed = mlflow_run(broken, "-P", f"resume_run={parent.info.run_id}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    extra = [run for run in all_runs(broken) if "resumed_run" in run.data.tags]
    assert [run.data.tags["resumed_run"] for run in extra] == [parent.info.run_id]
    assert {run.info.status for run in all_runs(broken)} == {"FINISHED"}
    client(broken).delete_run(extra[0].info.run_id)
    assert series(broken) == unbroken
    reader = client(broken)
    adaptive = by_stage(broken)["adaptive"].info.run_id
    images = [item.path for item in reader.list_artifacts(adaptive, "images") if item.path.endswith(".png")]
    assert len(images) == 5
    assert not list((tmp_path / "broken" / "cache" / "runs").glob("*/*"))


def test_resuming_with_other_settings_is_refused(store):
    assert python_run(store, "warmup", "--preset", "quick", "--device", "cpu").returncode == 0
    run = by_stage(store)["warmup"].info.run_id
    changed = python_run(store, "warmup", "--resume_run", run, "--learning_rate", "0.5")
    assert changed.returncode == 1
    assert "it cannot be resumed with learning_rate=0.5" in changed.stderr
    wrong = python_run(store, "adaptive", "--resume_run", run)
    assert wrong.returncode == 1
    assert "is a run of warmup" in wrong.stderr
    longer = python_run(store, "warmup", "--resume_run", run, "--warmup_epochs", "3")
    assert longer.returncode == 0, longer.stderr[-2000:]
    steps = [point.step for point in client(store).get_metric_history(run, "val/loss")]
    assert sorted(steps) == [1, 2, 3]


@pytest.fixture
def server(tmp_path):
    """A real tracking server that proxies artifacts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = environment(tmp_path, f"http://127.0.0.1:{port}") | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
         f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "served")],
        env=env | {"MLFLOW_TRACKING_URI": ""}, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield env
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


def test_main_on_an_http_tracking_server(server, tmp_path):
    done = mlflow_run(server, *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = by_stage(server)
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert f"link: {server['MLFLOW_TRACKING_URI']}/#/experiments/0/runs/{runs['main'].info.run_id}" in done.stdout
    check_model(server, runs["main"], tmp_path)
    assert {point.step for point in client(server).get_metric_history(runs["adaptive"].info.run_id, "gmm/bic")} == {
        2,
        3,
        4,
    }


def test_a_folder_of_ones_own_images_and_sounds_trains(store, tmp_path):
    import soundfile
    from PIL import Image

    folder = tmp_path / "my clips é"
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
    words = [f"dataset={folder / 'manifest.csv'}", "encoder=resnet_narrow", "image_size=32", "clip_seconds=0.5",
             "warmup_epochs=5", "adaptive_epochs=5", "refit_every=1", "batch_size=8", "learning_rate=0.02", "device=cpu"]  # fmt: skip
    done = mlflow_run(store, *[part for word in words for part in ("-P", word)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert by_stage(store)["main"].data.metrics["test/accuracy"] > 0.8
    shutil.rmtree(folder)
