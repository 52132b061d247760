"""Devices, workers and cores -> the environment of each process."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mm_balance.errors import UserError
from mm_balance.study.devices import CORES_VARIABLE, assign, choose_devices, own_cores, threads_of


def cores_of(slot):
    return [int(core) for core in slot.environment[CORES_VARIABLE].split(",")]


@pytest.mark.parametrize(
    ("asked", "visible", "chosen"),
    [
        ("auto", [], []),
        ("cpu", ["0", "1"], []),
        ("auto", ["0", "1"], ["0", "1"]),
        ("1", ["0", "1"], ["1"]),
        ("0,cuda:2", ["4", "5", "7"], ["4", "7"]),  # numbers count what is visible
    ],
)
def test_choose_devices(asked, visible, chosen):
    assert choose_devices(asked, visible) == chosen


@pytest.mark.parametrize(
    ("asked", "words"), [("2", "2 CUDA device"), ("gpu", "not understood"), ("0,0", "twice"), ("-1", "not understood")]
)
def test_devices_that_are_not_there_are_refused(asked, words):
    with pytest.raises(UserError, match=words):
        choose_devices(asked, ["0", "1"])


def test_one_worker_a_device_each_sees_only_its_own():
    slots = assign(["0", "3"], None, range(8))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3"]
    assert [slot.device for slot in slots] == ["cuda", "cuda"]
    assert [cores_of(slot) for slot in slots] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert threads_of(slots) == 4


def test_several_workers_a_device():
    slots = assign(["0", "1"], 4, range(4))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]


def test_a_cpu_has_two_workers_unless_told_or_too_small():
    assert len(assign([], None, range(8))) == 2
    assert len(assign([], None, [5])) == 1
    assert len(assign([], 3, range(8))) == 3
    assert all(slot.environment["CUDA_VISIBLE_DEVICES"] == "" for slot in assign([], 3, range(8)))


@given(some.integers(1, 12), some.sets(some.integers(0, 63), min_size=1, max_size=20))
def test_cores_are_shared_out_evenly_and_all_used_where_there_are_enough(workers, cores):
    shares = [cores_of(slot) for slot in assign([], workers, sorted(cores))]
    assert len(shares) == workers
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    used = [core for share in shares for core in share]
    assert set(used) <= cores
    if workers <= len(cores):
        assert sorted(used) == sorted(cores)


SHOW = """
import json, os
from mm_balance.study.devices import keep_to_cores, own_cores
keep_to_cores()
print(json.dumps([own_cores(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="cores can be chosen on Linux only")
def test_real_processes_see_only_their_own_cores():
    import os

    for slot in assign([], 2, own_cores()):
        done = subprocess.run(
            [sys.executable, "-c", SHOW],
            env={**os.environ, **slot.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        cores, devices, threads = json.loads(done.stdout)
        assert cores == cores_of(slot)
        assert (devices, int(threads)) == ("", len(cores))
