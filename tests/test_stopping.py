"""A command that `mlflow run` has started does not outlive it unseen."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mm_balance import stopping
from mm_balance.commands.guard import run_guarded
from mm_balance.errors import Interrupted

WATCHED = """
import os, sys, time
from mm_balance.commands.guard import run_guarded
from mm_balance.errors import Interrupted
def body(stop):
    print("begun", os.getpid(), flush=True)
    while not stop():
        time.sleep(0.05)
    raise Interrupted
sys.exit(run_guarded(body))
"""


@pytest.fixture
def watched(tmp_path):
    """Start a command as `mlflow run` does, by a process that can be killed; its parent, its own process, what it says."""
    started = []

    def start(command, **variables):
        script = tmp_path / "command.py"
        script.write_text(WATCHED)
        said = (tmp_path / "said").open("w")
        code = f"import subprocess, time; subprocess.Popen({command(script)!r}); time.sleep(600)"
        known = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none.db", **variables}
        parent = subprocess.Popen([sys.executable, "-c", code], env=known, stdout=said, stderr=said)
        started.append(parent)
        last = time.monotonic() + 60
        while "begun" not in (text := (tmp_path / "said").read_text()):
            assert time.monotonic() < last, text
            time.sleep(0.05)
        child = psutil.Process(int(text.split()[1]))
        started.append(child)
        return parent, child, tmp_path / "said"

    yield start
    for process in started:
        try:
            process.kill()
            process.wait()
        except psutil.NoSuchProcess:
            pass


def by_bash(script):
    return ["bash", "-c", f"{sys.executable} {script}"]


def by_a_shell_that_stays(script):
    return ["bash", "-c", f"{sys.executable} {script}; true"]


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "number"), [(by_bash, signal.SIGKILL), (by_a_shell_that_stays, signal.SIGTERM)])
def test_it_stops_with_a_checkpoint_when_mlflow_run_is_killed(watched, shell, number):
    parent, child, said = watched(shell, MLFLOW_RUN_ID="0" * 32)
    parent.send_signal(number)
    parent.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    assert "`mlflow run` has ended without this process" in said.read_text()
    assert "SIGTERM: saving a checkpoint after this batch" in said.read_text()


@pytest.mark.slow
def test_a_command_that_a_user_has_started_outlives_its_parent(watched):
    parent, child, said = watched(by_bash)
    parent.kill()
    parent.wait()
    time.sleep(3 * stopping.WATCH_SECONDS)
    assert child.is_running()
    assert "has ended" not in said.read_text()


def test_nothing_is_watched_after_the_command(monkeypatch, signals):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    died = []
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(stopping, "WATCH_SECONDS", 0.01)
    with stopping.watching(psutil.Process(process.pid), lambda: died.append(1)):
        pass
    process.kill()
    process.wait()
    time.sleep(0.1)
    assert died == []
    with stopping.watching(psutil.Process(), lambda: died.append(1)):
        time.sleep(0.1)
    assert died == []


def test_a_stop_by_the_watcher_is_a_stop_like_any_other(monkeypatch, signals):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(stopping, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(stopping, "project_process", lambda: psutil.Process(process.pid))

    def body(stop):
        process.kill()  # not waited for: it is a zombie, as under a parent that is busy
        while not stop():
            time.sleep(0.01)
        raise Interrupted

    assert run_guarded(body) == 128 + signal.SIGTERM
    process.wait()
