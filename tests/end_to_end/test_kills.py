"""Killed at any moment, and continued: the run is what it would have been, to the last bit, and nothing is there twice or missing.

Some seeded kills here; many in `make verify`.
"""

import os
import random
import signal
import time

import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.engine import loop
from mm_balance.tracking import presence
from tests.helpers.commands import QUICK, by_stage, do, runs, series, series_of, spelled, steps
from tests.helpers.faults import count_boundaries, dying_first, everything, recorded, start_dying, start_fated
from tests.helpers.processes import USED_BY_STUDIES, start_command, start_forked, wait_for
from tests.helpers.stores import copy_database, use_store

pytestmark = pytest.mark.slow
MAIN = f"{QUICK} warmup_epochs=1 adaptive_epochs=2 refit_every=1 worst=0"
SEED = 20261130
SEES = "the id of the run and the line that goes on with it, printed when it began"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, empty_database):
    """Series and artifacts of a run that nobody killed, and the number of boundaries that it reached."""
    folder = tmp_path_factory.mktemp("undisturbed")
    copy_database(empty_database, folder)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        use_store(folder, patch)
        torch.set_num_threads(1)
        reached = count_boundaries(lambda: do("main", MAIN), patch)
        found = series(), kept(), reached
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    return found


def kept():
    return {stage: everything(run) for stage, run in by_stage().items()}


def words_to_go_on():
    """What the killed process has printed, or, if it came to no run, the same command."""
    begun = by_stage().get("main")
    return MAIN if begun is None else f"resume_run={begun.info.run_id}"


def go_on_and_check(undisturbed, store):
    assert do("main", words_to_go_on()) == 0
    expected_series, expected_artifacts, _ = undisturbed
    assert series() == expected_series
    assert kept() == expected_artifacts
    unfinished = [run.data.tags for run in runs() if run.info.status != "FINISHED"]
    assert not [tags for tags in unfinished if "mm.stage" in tags]  # it may have died as it made one
    assert not list((store / "cache" / "runs").glob("*/*"))


def kill_at(store, words, boundary):
    process = start_dying(store, "main", spelled(words), boundary)
    process.wait(120)
    assert process.returncode in (-signal.SIGKILL, 0), process.said()


@pytest.mark.parametrize("share", [0.45, 0.8])
def test_main_killed_at_a_boundary(undisturbed, store, share):
    kill_at(store, MAIN, int(share * undisturbed[2]) + random.Random(f"{SEED} {share}").randrange(10))
    go_on_and_check(undisturbed, store)


@pytest.mark.verify
@pytest.mark.parametrize("number", range(24))
def test_main_killed_at_many_boundaries(undisturbed, store, number):
    draw = random.Random(SEED + number)
    twice = number % 3 == 0
    with recorded(f"SIGKILL of main at a boundary of an API{', and again as it is resumed' if twice else ''}", SEES):
        kill_at(store, MAIN, draw.randrange(undisturbed[2]))
        if twice:
            kill_at(store, words_to_go_on(), draw.randrange(undisturbed[2]))
        go_on_and_check(undisturbed, store)


@pytest.mark.verify
@pytest.mark.parametrize("number", range(10))
def test_main_killed_at_a_random_second(undisturbed, store, number):
    with recorded("SIGKILL of main at a random second", SEES):
        process = start_command(store, "main", spelled(MAIN))
        wait_for(lambda: "main" in by_stage(), process)
        time.sleep(random.Random(SEED + 1000 + number).uniform(0.0, 6.0))
        process.kill()
        process.wait(60)
        go_on_and_check(undisturbed, store)


def test_a_run_that_a_process_works_on_is_not_touched_by_another_and_is_free_once_that_is_killed(
    store, capsys, monkeypatch
):
    """The lines that tell which run it is are there as soon as it is under way."""
    process = start_fated(store, "main", spelled(MAIN), 3, killed=False)  # the second of the second stage
    wait_for(lambda: "adaptive" in by_stage() and len(steps(by_stage()["adaptive"])) == 1, process)
    parent, nested = by_stage()["main"], by_stage()["adaptive"]
    assert f"run:  {parent.info.run_id}\n" in process.said()
    assert f"mlflow run . --env-manager local -P resume_run={parent.info.run_id}\n" in process.said()
    assert f"resume_run={parent.info.run_id}`" in parent.data.tags["mlflow.note.content"]
    for entry_point, run in (("main", parent), ("adaptive", nested)):
        capsys.readouterr()
        assert do(entry_point, f"resume_run={run.info.run_id}") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"process {process.pid} on " in line
        assert "is at work on it" in line
        now = MlflowClient().get_run(run.info.run_id)
        assert (now.info.status, now.data.tags) == ("RUNNING", run.data.tags)
    assert len(runs()) == 3
    process.kill()
    process.wait(60)
    assert presence.marked_runs()
    monkeypatch.setattr(loop, "plan_epoch", lambda *words: os.kill(os.getpid(), signal.SIGTERM))
    assert do("main", f"resume_run={parent.info.run_id}") == 128 + signal.SIGTERM
    assert presence.marked_runs() == []


STUDY = (
    "preset=quick train_fraction=0.05 study_name=killed trials=2 workers=1 adaptive_epochs=3 refit_every=1 pruner=none "
    "sampler=random search=weights"
)
WORKER_SEES = "the launcher starts another worker, and the trial is continued as another one"


def trials():
    """What every finished trial of the study has, by its searched parameters."""
    found = runs(study="killed", stage="trial")
    return {
        tuple(sorted(run.data.params.items())): (series_of(run), everything(run))
        for run in found
        if run.info.status == "FINISHED"
    }


@pytest.fixture(scope="module")
def undisturbed_trials(tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("undisturbed")
    copy_database(empty_database, folder)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        use_store(folder, patch)
        patch.setattr(USED_BY_STUDIES, start_forked)
        torch.set_num_threads(1)
        assert do("study", STUDY) == 0
        found = trials()
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    return found


@pytest.mark.verify
@pytest.mark.parametrize("number", range(6))
def test_a_trial_taken_over_is_what_it_would_have_been(undisturbed_trials, store, monkeypatch, number):
    with recorded("SIGKILL of a worker of a study at a boundary of an API", WORKER_SEES):
        boundary = random.Random(SEED + 2000 + number).randrange(40, 160)
        monkeypatch.setattr(USED_BY_STUDIES, dying_first("worker", boundary))
        assert do("study", STUDY) == 0
        found = trials()
        assert len(found) == 2
        same = found.keys() & undisturbed_trials.keys()  # what is drawn after the kill depends on the number of trials
        assert same
        assert {key: found[key] for key in same} == {key: undisturbed_trials[key] for key in same}
        assert not [run for run in runs() if run.info.status == "RUNNING"]
