"""A method outside the package, trained by the entry point as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from outside import write_module

ROOT = Path(__file__).parents[1]


def entry_point(folder, *words):
    """``python -m entrypoints.WORDS`` in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{words[0]}", *words[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_method_in_the_current_folder_trains_and_is_found_again_when_it_is_continued(store):
    write_module(store, "my_methods")
    words = ("--preset", "quick", "--device", "cpu", "--train_fraction", "0.1")
    done = entry_point(store, "train", "--method", "my_methods:Halved", "--method_options", "factor=0.25", *words)
    assert done.returncode == 0, done.stderr
    (run,) = MlflowClient().search_runs(["0"])
    assert run.info.run_name == "halved digits seed 0"
    assert run.data.tags["mm.method"] == "halved"
    assert run.data.params["config/method"] == "my_methods:Halved"
    assert run.data.params["method/factor"] == "0.25"
    more = str(int(run.data.metrics["selection/last_epoch"]) + 1)
    done = entry_point(store, "train", "--resume_run", run.info.run_id, "--epochs", more)
    assert done.returncode == 0, done.stderr
    (longer,) = MlflowClient().search_runs(["0"])
    assert str(int(longer.data.metrics["selection/last_epoch"])) == more
    assert longer.data.tags["mm.code"] == run.data.tags["mm.code"]
    assert "mm.mixed" not in longer.data.tags
    done = entry_point(store, "train", "--method", "my_methods:Halfed", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "mm-balance: error: method=my_methods:Halfed: my_methods has no Halfed; its Method classes: Halved"
    )
