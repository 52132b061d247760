"""Who works on a run: known while the process lives, and no longer."""

import os
import signal
import time

import pytest

from mm_balance.errors import UserError
from mm_balance.tracking import presence
from mm_balance.tracking.lookup import open_run


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def another():
    """A function that has another process enter a run; its id."""
    started = []

    def start(run_id):
        pid = os.fork()
        if pid == 0:
            presence.enter(run_id)
            while True:
                signal.pause()
        started.append(pid)
        while not presence.workers_on(run_id):
            time.sleep(0.01)
        return pid

    yield start
    for pid in started:
        end(pid)


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_process_is_not_in_its_own_way():
    presence.enter("run")
    with presence.alone_on("run"), presence.alone_on("run"):
        assert presence.workers_on("run") == []
    assert presence.marked_runs() == []


def test_another_process_is_named_and_nothing_is_touched(another):
    pid = another("run")
    with (
        pytest.raises(
            UserError, match=rf"resume_run=run: process {pid} on \S+ since 20\S+ \S+ UTC \(.*\) is at work on it"
        ),
        presence.alone_on("run"),
    ):
        pytest.fail("it works on it, too")
    assert [mark.process.pid for mark in presence.marks("run")] == [pid]


def test_so_is_one_that_works_on_a_part_of_the_run(another):
    another("nested")
    with pytest.raises(UserError, match="is at work on it"), presence.alone_on("run", ["nested"]):
        pytest.fail("it works on it, too")
    assert presence.marks("run") == []


def test_a_killed_process_is_in_nobodys_way_and_what_it_left_goes(another):
    end(another("run"))
    assert [mark.alive for mark in presence.marks("run")] == [False]
    with presence.alone_on("run"):
        assert sorted(mark.alive for mark in presence.marks("run")) == [False, True]
    assert presence.marked_runs() == []


def test_a_run_is_marked_from_its_beginning_to_its_end_and_says_by_whom(store):
    run = open_run("some run")
    (mark,) = presence.marks(run.run_id)
    assert mark.alive
    assert mark.process.pid == os.getpid()
    assert run.read().data.tags["mm.process"].startswith(f"process {os.getpid()} on ")
    run.terminate("FINISHED")
    assert presence.marks(run.run_id) == []
    run.reopen()
    assert len(presence.marks(run.run_id)) == 1
    run.terminate("KILLED")


def test_a_cache_folder_that_cannot_be_written_hinders_nobody(tmp_path):
    (tmp_path / "cache").write_text("a file")
    presence.enter("run")
    with presence.alone_on("run"):
        pass
    presence.leave("run")
