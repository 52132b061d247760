"""A tracking store and a cache folder of the test's own, and studies on them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from mm_balance.config import StudyConfig, fill
from mm_balance.study.desk import make_study
from mm_balance.study.settings import new_settings
from mm_balance.tracking.runs import open_run, prepare_store

ROOT = Path(__file__).parents[2]


def settings_of(method="gap_mixture", **asked):
    """Settings of a study of ``method`` on data with the digest of ``tiny_data``."""
    study = StudyConfig(**{"space": None, "search": "weights", "pruner": "none", **asked})
    return new_settings(study, fill({"method": method}), threads=1, data_digest="0" * 64, given=set())


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An MLflow database without runs: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("database")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    prepare_store()
    mlflow.set_tracking_uri(before)
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path, monkeypatch, empty_database):
    """The folder; processes started by the test use it too."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    return tmp_path


@pytest.fixture
def new_desk(store):
    """A function that makes a study."""

    def make(trials=5, name="mine", storage="auto", **asked):
        settings = settings_of(**asked)
        return make_study(name, storage, settings, open_run(f"study {name}"), trials)

    return make


def trivial_worker(desk, seconds=0.0):
    """A process that works for ``desk`` with a formula instead of training."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "TRIVIAL_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "study.trivial", desk.name, desk.location]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
