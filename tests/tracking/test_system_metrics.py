"""System metrics: measured while a stage trains, ended with it whatever happens, and never waited for."""

import builtins
import sys
import threading

import psutil
import pytest
import torch
from mlflow.exceptions import MlflowException

from mm_balance.errors import Interrupted
from mm_balance.tracking import system_monitor
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.tracking.system_metrics import system_metrics
from tests.helpers.commands import QUICK, by_stage, do, steps

MEMORY = "system/system_memory_usage_megabytes"


def monitors():
    return [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def measured(run, name=MEMORY):
    return run.metric_series(name) if name in run.read().data.metrics else []


@pytest.fixture
def run(store):
    return open_run("some run")


def test_a_stage_shorter_than_the_interval_has_one_point(run):
    with system_metrics(run, wanted=True):
        assert monitors()
    assert not monitors()
    ((step, megabytes),) = measured(run)
    assert step == 0
    assert 0 < megabytes <= psutil.virtual_memory().total / 1e6
    found = {name.split("_")[0] for name in run.read().data.metrics}
    assert {"system/cpu", "system/system", "system/disk", "system/network"} <= found


def test_nothing_is_measured_unless_wanted(run):
    with system_metrics(run, wanted=False):
        assert not monitors()
    assert not run.read().data.metrics


@pytest.mark.parametrize("end", [Interrupted, KeyboardInterrupt, RuntimeError, MemoryError])
def test_it_ends_with_the_training_and_goes_on_counting_when_that_is_resumed(run, end):
    with pytest.raises(end), system_metrics(run, wanted=True):
        raise end
    assert not monitors()
    with system_metrics(run, wanted=True):
        pass
    assert [step for step, _ in measured(run)] == [0, 1]


def test_it_measures_at_intervals(run, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    sent = threading.Event()
    log_points = TrackedRun.log_points

    def logged(self, points, about=None):
        log_points(self, points, about)
        if len(measured(run)) >= 3:
            sent.set()

    monkeypatch.setattr(TrackedRun, "log_points", logged)
    with system_metrics(run, wanted=True):
        assert sent.wait(60)


def test_what_an_outage_kept_back_is_part_of_the_next_mean(run, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    log_points, reached = TrackedRun.log_points, threading.Event()
    tries = []

    def logged(self, points, about=None):
        tries.append(points)
        if len(tries) < 3:
            raise MlflowException("the server is away")
        log_points(self, points, about)
        reached.set()

    monkeypatch.setattr(TrackedRun, "log_points", logged)
    with system_metrics(run, wanted=True):
        assert reached.wait(60)
    assert measured(run)[0][0] == 0


def test_the_end_does_not_wait_for_a_server_that_does_not_answer(run, monkeypatch):
    answer, asked = threading.Event(), threading.Event()

    def logged(self, points, about=None):
        asked.set()
        answer.wait(60)

    monkeypatch.setattr(system_monitor, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(TrackedRun, "log_points", logged)
    with system_metrics(run, wanted=True):
        (thread,) = monitors()
    assert asked.wait(60)
    assert thread.is_alive(), "it still waits for an answer, the training does not"
    assert thread.daemon, "nor does the end of the process"
    answer.set()
    thread.join(60)


def test_a_missing_package_is_told_and_no_error(run, monkeypatch, capsys):
    real = builtins.__import__

    def without_psutil(name, *words):
        if name == "psutil":
            raise ModuleNotFoundError("No module named 'psutil'", name="psutil")
        return real(name, *words)

    loaded = [
        name for name in sys.modules if name.startswith(("mlflow.system_metrics", "mm_balance.tracking.system_monitor"))
    ]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mm_balance.tracking.system_monitor")
    monkeypatch.setattr(builtins, "__import__", without_psutil)
    with system_metrics(run, wanted=True):
        assert not monitors()
    assert (
        "nothing is measured: the package psutil is missing; install it with: pip install psutil"
        in capsys.readouterr().err
    )


def test_a_gpu_that_cannot_be_measured_is_told(run, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(system_monitor.SystemMonitor, "sees_gpu", lambda self: False)
    with system_metrics(run, wanted=True):
        pass
    assert "the GPU is not measured, the rest is; for the GPU: pip install nvidia-ml-py" in capsys.readouterr().err
    assert measured(run)


@pytest.mark.verify
@pytest.mark.slow
def test_the_runs_that_train_have_them_and_a_resumed_one_may_stop_having_them(store, signals):
    assert do("main", f"{QUICK} system_metrics=true") == 0
    found = by_stage()
    for stage in ("warmup", "adaptive"):
        measured_at = steps(found[stage], MEMORY)
        assert measured_at == list(range(max(1, len(measured_at))))  # on a busy machine there is time for more than one
    for stage in ("main", "evaluate"):
        assert not [name for name in found[stage].data.metrics if name.startswith("system/")]
    identity = found["main"].info.run_id
    assert do("main", f"resume_run={identity} system_metrics=false adaptive_epochs=3") == 0
    assert steps(by_stage()["adaptive"], MEMORY) == measured_at
    assert not monitors()
