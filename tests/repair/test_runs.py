"""Which unfinished runs are closed: those whose process is dead, and nothing in which may live."""

import time

import pytest

from mm_balance.repair.runs import dead_runs
from mm_balance.tracking import presence
from mm_balance.tracking.presence import Process
from mm_balance.tracking.unfinished import Life, UnfinishedRun, life_of

DEAD, LIVING, UNKNOWN = Life.DEAD, Life.LIVING, Life.UNKNOWN
EARLIER = Process(7, "here", "main", "2026-11-30 08:00:00 UTC")
LATER = Process(8, "elsewhere", "main", "2026-11-30 09:00:00 UTC")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(name, life, parent=None, hours=0.0):
    return UnfinishedRun(name, name, parent, "study", "s", False, "", life, time.time() - 3600 * hours)


def closed(runs, older_than_hours=None):
    return [item.what.split()[1] for item in dead_runs(runs, older_than_hours) if item.close is not None]


def listed(runs, older_than_hours=None):
    return [item.what.split()[1] for item in dead_runs(runs, older_than_hours)]


def test_the_dead_are_closed_nested_ones_first_and_those_that_live_are_not_even_listed():
    assert closed([run("a", DEAD), run("b", DEAD, "a"), run("c", DEAD, "b")]) == ["c", "b", "a"]
    assert listed([run("a", LIVING), run("b", DEAD, "a")]) == []
    assert listed([run("a", DEAD), run("b", LIVING, "a")]) == []
    assert closed([run("a", LIVING), run("b", DEAD)]) == ["b"]


def test_a_run_in_which_another_machine_may_be_at_work_stays_open():
    runs = [run("a", DEAD), run("b", UNKNOWN, "a"), run("c", DEAD, "a")]
    assert closed(runs) == ["c"]
    assert listed(runs) == ["c", "b", "a"]
    lines = [item.line(dry_run=False) for item in dead_runs(runs, None)]
    assert "older_than_hours=HOURS" in lines[1]
    assert "may still be under way on another machine" in lines[2]


def test_silence_closes_what_cannot_be_seen_but_never_where_a_part_has_just_logged_something():
    assert closed([run("a", UNKNOWN, hours=3)], 2) == ["a"]
    assert closed([run("a", UNKNOWN, hours=3)], 4) == []
    assert closed([run("a", UNKNOWN, hours=3), run("b", UNKNOWN, "a", hours=1)], 2) == []
    assert closed([run("a", LIVING, hours=99)], 2) == []


def test_what_is_closed_with_a_trial_is_not_closed_twice():
    found = dead_runs([run("a", DEAD), run("b", DEAD, "a")], None, {"b"})
    assert [item.what.split()[1] for item in found if item.close is not None] == ["a"]


def leave_mark(cache, process):
    from dataclasses import asdict
    from json import dumps

    path = cache / "alive" / "r" / f"{process.pid}-x"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(asdict(process)))


def test_life(cache):
    assert life_of("r", "") is UNKNOWN
    assert life_of("r", str(EARLIER)) is UNKNOWN
    leave_mark(cache, EARLIER)
    assert life_of("r", str(EARLIER)) is DEAD
    assert life_of("r", "") is DEAD  # killed before it signed
    assert life_of("r", str(LATER)) is UNKNOWN  # continued elsewhere since
    presence.enter("r")
    assert life_of("r", str(LATER)) is LIVING
    presence.leave("r")
