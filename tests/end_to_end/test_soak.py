"""Long runs and full stores: memory, open files and folders stay as they are."""

import os
import statistics
import time
from pathlib import Path

import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.engine import loop
from mm_balance.engine.recorder import MetricPoint
from mm_balance.tracking.lookup import find_warmup, open_run
from tests.helpers.commands import QUICK, do, newest
from tests.helpers.faults import record

pytestmark = pytest.mark.verify
EPOCHS, RUNS = 200, 1000
MEBIBYTE = 2**20


def test_two_hundred_epochs_take_no_more_memory_and_files_than_fifty(store, monkeypatch):
    process, seen = psutil.Process(), []
    plan = loop.plan_epoch

    def watched(*words):
        seen.append((process.memory_info().rss / MEBIBYTE, process.num_fds(), process.num_threads()))
        return plan(*words)

    monkeypatch.setattr(loop, "plan_epoch", watched)
    torch.set_num_threads(1)
    assert do("train", f"{QUICK} method=concat_unimodal epochs={EPOCHS} refit_every=5 worst=0") == 0
    assert newest(stage="train").info.status == "FINISHED"
    memory, files, threads = zip(*seen, strict=True)
    growth = statistics.median(memory[-20:]) - statistics.median(memory[40:60])
    record(
        f"{EPOCHS} epochs in one run (soak)", 1, int(growth < 60), 0,
        f"nothing; from epoch 50 to {EPOCHS}: memory {growth:+.0f} MiB of {memory[-1]:.0f}, "
        f"open files {files[50]} to {files[-1]}, threads {threads[50]} to {threads[-1]}",
    )  # fmt: skip
    assert growth < 60
    assert files[-1] <= files[50] + 2
    assert threads[-1] <= threads[50] + 10  # pools of MLflow and others grow to their bound; one per refit would be 30
    work = Path(os.environ["MM_BALANCE_CACHE"]) / "runs"
    assert not list(work.glob("*/*"))


def test_a_store_of_a_thousand_runs_answers_as_one_of_ten(store):
    def fill(numbers):
        for number in numbers:
            run = open_run(
                f"run {number}", tags={"mm.stage": "train", "mm.seed": str(number), "mm.fingerprint": str(number)}
            )
            run.log_params({"config/seed": str(number)})
            run.log_points(
                [MetricPoint(step, 1000 * step, {"val/accuracy": 0.5, "val/loss": 1.0}) for step in (1, 2, 3)]
            )
            run.terminate("FINISHED")

    def seconds():
        """What a command and the page of the experiment ask for."""
        took = []
        for _ in range(7):
            begun = time.perf_counter()
            find_warmup("none")
            MlflowClient().search_runs(["0"], max_results=100)
            took.append(time.perf_counter() - begun)
        return statistics.median(took)

    fill(range(10))
    few = seconds()
    before = psutil.Process().memory_info().rss / MEBIBYTE
    files = psutil.Process().num_fds()
    fill(range(10, RUNS))
    many = seconds()
    growth = psutil.Process().memory_info().rss / MEBIBYTE - before
    record(
        f"{RUNS:,} runs in one SQLite store (soak)", 1, 1, 0,
        f"nothing; the newest 100 runs and a search for a warm-up: {1000 * few:.0f} ms with 10 runs, {1000 * many:.0f} ms with "
        f"{RUNS:,}; "
        f"memory {growth:+.0f} MiB",
    )  # fmt: skip
    assert growth < 100
    assert psutil.Process().num_fds() <= files + 2
    assert len(MlflowClient().search_runs(["0"], max_results=RUNS)) == RUNS
