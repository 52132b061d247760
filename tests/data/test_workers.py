"""Processes that die at their work: what is lost, and what is said."""

import os
import signal
import time
from pathlib import Path

import pytest

from mm_balance.data.grid_words import CUT_RESCUE, MOUTHS_RESCUE, Cut, Task, Word, _cut_all, _talker_mouths
from mm_balance.data.readers.grid import Sentence
from mm_balance.data.workers import Rescue, now_at, results
from mm_balance.errors import Interrupted, UserError
from tests.helpers.deadly import Deadly

JOIN = Rescue(
    divide=lambda task: [[number] for number in task] if len(task) > 1 else [],
    join=lambda parts: [answer for part in parts for answer in part],
    failed=lambda task, reason, at: [(task[0], at, reason)],
)


def doubled(task):
    answers = []
    for number in task:
        now_at(f"number {number}")
        if number < 0:
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        answers.append(2 * number)
    return answers


def work(tasks, function=doubled, stop=lambda: False):
    return list(results(function, tasks, 2, stop, JOIN))


def test_of_a_task_that_ends_its_process_only_the_guilty_part_is_lost():
    tasks = [[10 * number + digit for digit in range(4)] for number in range(12)]
    tasks[3][2] = -1
    tasks[9][0] = -2
    found = work(tasks)
    assert len(found) == len(tasks), "one result for each task"
    answers = [answer for part in found for answer in part]
    failed = [answer for answer in answers if isinstance(answer, tuple)]
    assert sorted(answer for answer in answers if not isinstance(answer, tuple)) == sorted(
        2 * number for task in tasks for number in task if number >= 0
    )
    assert sorted(number for number, _, _ in failed) == [-2, -1]
    for number, at, reason in failed:
        assert at == f"number {number}"
        assert reason.startswith("the process that decoded it crashed (SIGSEGV), twice; ")


def flaky(task):
    """Ends its process, once only: as when memory ran out because all processes took it at once."""
    if os.path.exists(task[0]):
        os.unlink(task[0])
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return [task[0]]


def test_what_works_alone_is_not_lost(tmp_path):
    (tmp_path / "first").touch()
    names = [[str(tmp_path / name)] for name in ("first", "second", "third")]
    assert sorted(work(names, flaky)) == sorted(names)


def raising(task):
    if task[0] < 0:
        os._exit(3)
    raise UserError("the disk is full")


def test_errors_are_raised_here_also_from_a_process_of_its_own():
    with pytest.raises(UserError, match="the disk is full"):
        work([[1]], raising)
    with pytest.raises(UserError, match="the disk is full"):
        work([[-1, 1]], raising)  # the part [1] is done alone


def slow_alone(task):
    """Ends its process the first time, and lasts long the second time."""
    if not os.path.exists(task[0]):
        Path(task[0] + " begun").touch()
        time.sleep(60)
        Path(task[0] + " ended").touch()
    return flaky(task)


def test_a_stop_is_heard_while_one_waits_for_a_suspicious_task(tmp_path):
    (tmp_path / "first").touch()
    with pytest.raises(Interrupted):
        work([[str(tmp_path / "first")]], slow_alone, (tmp_path / "first begun").exists)
    assert not (tmp_path / "first ended").exists()


def test_a_video_that_ends_processes_is_a_failure_of_its_sentence(tmp_path):
    (tmp_path / "broken.mpg").write_bytes(b"no video")
    sentences = [
        Sentence("s1", name, video, tmp_path / "x.align")
        for name, video in (("one", tmp_path / "broken.mpg"), ("two", Deadly(tmp_path / "two.mpg", "SIGSEGV")))
    ]
    words = tuple((Word(sentence, "a", 0, 1000), tmp_path / f"{sentence.name}.mkv") for sentence in sentences)
    (failures,) = results(_cut_all, [Task(words, {}, Cut())], 2, lambda: False, CUT_RESCUE)
    assert "sentence 's1_one': broken.mpg: cannot be opened as video" in failures[0]
    assert "sentence 's1_two': two.mpg: the process that decoded it crashed (SIGSEGV)" in failures[1]
    tasks = [("s1", [sentence.video for sentence in sentences])]
    assert list(results(_talker_mouths, tasks, 2, lambda: False, MOUTHS_RESCUE)) == [("s1", [])]
