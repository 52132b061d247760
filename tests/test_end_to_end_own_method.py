"""The example method, with a head of its own, outside the package: every entry point is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.outside import write_module

ROOT = Path(__file__).parents[1]


def entry_point(folder, *words):
    """``python -m entrypoints.WORDS`` in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_EXPERIMENT_NAME": "own"}
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{words[0]}", *words[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def runs(query=""):
    experiment = MlflowClient().get_experiment_by_name("own")
    return MlflowClient().search_runs([experiment.experiment_id], query)


@pytest.mark.slow
def test_a_method_of_the_current_folder_is_trained_continued_and_evaluated(store):
    here, elsewhere = store / "here", store / "elsewhere"
    elsewhere.mkdir()
    write_module(here, "my_methods", (ROOT / "examples" / "own_method.py").read_text("utf-8"))
    words = ("--preset", "quick", "--device", "cpu", "--train_fraction", "0.1")
    done = entry_point(here, "train", "--method", "my_methods:Smoothed", "--method_options", "temperature=4.0", *words)
    assert done.returncode == 0, done.stderr
    (run,) = runs()
    assert run.info.run_name == "smoothed digits seed 0"
    assert run.data.tags["mm.method"] == "smoothed"
    assert run.data.params["config/method"] == "my_methods:Smoothed"
    assert run.data.params["method/temperature"] == "4.0"
    more = str(int(run.data.metrics["selection/last_epoch"]) + 1)
    done = entry_point(here, "train", "--resume_run", run.info.run_id, "--epochs", more)
    assert done.returncode == 0, done.stderr
    (longer,) = runs()
    assert str(int(longer.data.metrics["selection/last_epoch"])) == more
    assert longer.data.tags["mm.code"] == run.data.tags["mm.code"]
    assert "mm.mixed" not in longer.data.tags
    done = entry_point(here, "train", "--method", "my_methods:Smooth", *words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "mm-balance: error: method=my_methods:Smooth: my_methods has no Smooth; its Method classes: Smoothed"
    )
    # The model takes the head's source along: where it is loaded, there need be no such module.
    done = entry_point(elsewhere, "evaluate", "--run_id", run.info.run_id, "--split", "val", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    evaluated = runs("tags.`mm.stage` = 'evaluate'")[0]
    assert evaluated.data.metrics["val/accuracy"] == longer.data.metrics["val/accuracy"]
