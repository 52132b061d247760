"""Studies on a tracking store of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mm_balance.config import StudyConfig, apply_preset
from mm_balance.study.handle import make_study
from mm_balance.study.settings import new_settings
from mm_balance.tracking.lookup import open_run

ROOT = Path(__file__).parents[2]


def settings_of(method="gap_mixture", **asked):
    """Settings of a study of ``method`` on data with the digest of ``tiny_data``."""
    study = StudyConfig(**{"space": None, "search": "weights", "pruner": "none", **asked})
    return new_settings(study, apply_preset({"method": method}), threads=1, data_digest="0" * 64, given=set())


@pytest.fixture
def new_desk(store):
    """A function that makes a study."""

    def make(trials=5, name="mine", storage="auto", **asked):
        settings = settings_of(**asked)
        return make_study(name, storage, settings, open_run(f"study {name}"), trials)

    return make


def trivial_worker(handle, seconds=0.0):
    """A process that works for ``handle`` with a formula instead of training."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "TRIVIAL_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "study.trivial", handle.name, handle.location]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
