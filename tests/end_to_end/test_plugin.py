"""An encoder, a data set and a method in one file outside the package (examples/plugin): trained, studied, explored and served.

Here in this process; in `make verify` as an installed package of another virtual environment, by `mlflow run`.
"""

import json
import socket
import sys
import sysconfig
import time
import urllib.error
import urllib.request

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.helpers.commands import by_stage, do, newest, runs
from tests.helpers.processes import ROOT, Spawned, finished, mlflow_words

pytestmark = pytest.mark.slow
PLUGIN = ROOT / "examples" / "plugin"
LINES = 40
BY_PATH = "dataset=waves:waves encoder=audio:waves:spectrum,visual:mlp method=waves:SmoothedWaves device=cpu"
BY_NAME = "dataset=waves encoder=audio:spectrum,visual:mlp method=smoothed_waves device=cpu"


def test_it_is_short():
    lines = [line for line in (PLUGIN / "waves.py").read_text("utf-8").splitlines() if line.strip()]
    assert len(lines) <= LINES


def test_it_is_trained_explored_and_loaded(store, monkeypatch):
    monkeypatch.syspath_prepend(PLUGIN)
    assert do("main", f"{BY_PATH} warmup_epochs=2 adaptive_epochs=2 refit_every=1 worst=3") == 0
    main = by_stage()["main"]
    assert main.data.tags["mm.method"] == "smoothed_waves"
    assert main.data.params["config/batch_size"] == "32", "a setting of the data set"
    paths = [item.path for item in MlflowClient().list_artifacts(main.info.run_id)]
    assert {"explorer.html", "samples.parquet"} <= set(paths)
    sys.modules.pop("waves")
    monkeypatch.undo()
    answers = mlflow.pyfunc.load_model(f"runs:/{main.info.run_id}/model").predict(samples())
    assert set(answers["class"]) <= {f"frequency {number}" for number in range(1, 5)}
    sys.modules.pop("waves", None)


def samples():
    """Two samples as arrays."""
    random = np.random.default_rng(0)
    audio = [random.standard_normal((64, 1)).astype(np.float32) for _ in range(2)]
    visual = [random.standard_normal(8).astype(np.float32) for _ in range(2)]
    return pd.DataFrame({"audio": audio, "visual": visual})


@pytest.fixture(scope="module")
def environment_with_plugin(tmp_path_factory):
    """The programs of a new virtual environment that has the package, and else finds the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    made = finished([sys.executable, "-m", "venv", str(folder / "venv")], folder)
    assert made.returncode == 0, made.stderr
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    python = str(folder / "venv" / "bin" / "python")
    installed = finished([python, "-m", "pip", "install", "-q", "--no-deps", str(PLUGIN)], folder)
    assert installed.returncode == 0, installed.stderr
    return python


@pytest.mark.verify
def test_installed_elsewhere_it_is_trained_studied_explored_and_served(store, environment_with_plugin):
    python = environment_with_plugin
    path = f"{python.rpartition('/')[0]}:{sysconfig.get_paths()['scripts']}:/usr/bin:/bin"

    def run(entry_point, words):
        program, *rest = mlflow_words(entry_point, words)
        done = finished([python, "-m", program, *rest], store, seconds=900, PATH=path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("main", f"{BY_NAME} worst=5")
    main = by_stage()["main"]
    assert main.data.metrics["test/accuracy"] > 0.5
    assert main.data.params["config/encoder"] == "audio:spectrum,visual:mlp"
    run(
        "study",
        f"{BY_NAME.replace(' device=cpu', '')} study_name=waves trials=4 workers=2 devices=cpu search=optimizer epochs=2",
    )
    finished_trials = [item for item in runs(stage="trial", study="waves") if item.info.status == "FINISHED"]
    assert len(finished_trials) >= 2
    assert len({item.data.tags.get("mm.worker") for item in finished_trials}) >= 1
    run("explore", f"run_id={main.info.run_id} worst=2")
    run("evaluate", f"run_id={main.info.run_id} split=val")
    assert newest(stage="evaluate").data.metrics["val/accuracy"] == main.data.metrics["val/accuracy"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = f"runs:/{main.info.run_id}/model"
    server = Spawned(
        [python, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)], store
    )
    try:
        answers = ask(server, port, {name: [value.tolist() for value in column] for name, column in samples().items()})
    finally:
        server.kill()
    assert len(answers) == 2
    assert answers[0]["class"].startswith("frequency ")


def ask(server, port, inputs):
    """What the server answers, once it does."""
    body = json.dumps(
        {"dataframe_split": {"columns": list(inputs), "data": list(zip(*inputs.values(), strict=True))}}
    ).encode()
    last = time.monotonic() + 300
    while time.monotonic() < last:
        assert server.poll() is None, server.said()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["predictions"]
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError("it never answered")
