"""Worker processes: what dies costs its own task."""

import os
import signal
import time
from pathlib import Path

import pytest

from mm_balance.reproduction import pool

pytestmark = pytest.mark.slow


def do(task):
    """What a worker does here: its name says it; the folder of ``die once`` remembers that it has died."""
    kind, _, rest = task.partition(" ")
    if kind == "fail":
        raise ValueError(f"no {rest}")
    if kind == "die" or (kind == "die-once" and not Path(rest).exists()):
        if rest:
            Path(rest).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "wait":
        Path(rest).touch()
        while not pool.stop_requested():
            time.sleep(0.01)
        return "stopped"
    return (rest, os.environ.get("MLFLOW_RUN_ID"), __import__("torch").get_num_threads())


def test_errors_and_deaths_cost_their_own_task(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "adopted by the command only")
    dead = []
    tasks = ["good 1", "fail luck", "die", f"die-once {tmp_path / 'died'}", "good 2"]
    results = dict(pool.work_through(tasks, do, pool.cpu_slots(2), on_death=dead.append))
    assert results["good 1"] == ("1", None, 1)
    assert results["good 2"] == ("2", None, 1)
    assert (type(results["fail luck"]), str(results["fail luck"])) == (ValueError, "no luck")
    assert isinstance(results["die"], pool.WorkerDied)
    assert results[tasks[3]] == (str(tmp_path / "died"), None, 1)
    assert sorted(dead) == sorted(["die", "die", tasks[3]])


def test_a_stop_is_passed_on_and_nothing_begins_after_it(tmp_path):
    begun = tmp_path / "begun"
    tasks = ["good 1", f"wait {begun}", "good 2"]
    results = dict(pool.work_through(tasks, do, pool.cpu_slots(1), stop=begun.exists))
    assert list(results) == tasks[:2]
    assert results[tasks[1]] == "stopped"


def test_a_task_waits_for_the_one_that_it_needs():
    order = [
        task
        for task, _ in pool.work_through(
            ["good 2", "good 1"],
            do,
            pool.cpu_slots(2),
            ready=lambda task, done: task == "good 1" or "good 1" in done,
        )
    ]
    assert order == ["good 1", "good 2"]
