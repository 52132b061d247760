"""Killed at any moment, and continued: the run is what it would have been, to the last bit, and nothing is there twice or missing.

Some seeded kills here; many in `make verify`.
"""

import os
import random
import signal
import time

import pytest
from mlflow.tracking import MlflowClient

from mm_balance.engine import loop
from mm_balance.tracking import presence
from tests.helpers.commands import QUICK, by_stage, do, runs, series, series_of, spelled, steps
from tests.helpers.faults import count_boundaries, dying_first, everything, recorded, start_dying, start_fated
from tests.helpers.manifests import Folder
from tests.helpers.processes import USED_BY_STUDIES, start_command, start_forked, wait_for
from tests.helpers.stores import store_of_a_fixture

pytestmark = pytest.mark.slow
MAIN = f"{QUICK} warmup_epochs=1 adaptive_epochs=2 refit_every=1 worst=0"
SEED = 20261130
SEES = "the id of the run and the line that goes on with it, printed when it began"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, empty_database):
    """Series and artifacts of a run that nobody killed, and the number of boundaries that it reached."""
    with store_of_a_fixture(tmp_path_factory.mktemp("undisturbed"), empty_database) as patch:
        reached = count_boundaries(lambda: do("main", MAIN), patch)
        found = series(), kept(), reached
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


@pytest.mark.parametrize("share", [pytest.param(0.45, marks=pytest.mark.verify), 0.8])
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
    with store_of_a_fixture(tmp_path_factory.mktemp("undisturbed"), empty_database) as patch:
        patch.setattr(USED_BY_STUDIES, start_forked)
        assert do("study", STUDY) == 0
        found = trials()
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


TRAINED = f"{QUICK} epochs=2 refit_every=1 worst=0 method=concat_unimodal"
ALONE = {
    "warmup": f"{QUICK} warmup_epochs=2",
    "adaptive": f"{QUICK} adaptive_epochs=2 refit_every=1 worst=0",
    "train": TRAINED,
}
"""Commands that train one stage, with their words."""


@pytest.mark.verify
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("command", ALONE)
def test_a_stage_killed_at_a_boundary(store, monkeypatch, command, number):
    with recorded(f"SIGKILL of {command} at a boundary of an API", SEES):
        if command == "adaptive":
            assert do("warmup", f"{QUICK} warmup_epochs=2") == 0
        reached = count_boundaries(lambda: do(command, ALONE[command]), monkeypatch)
        whole = by_stage()[command]
        expected = series_of(whole), everything(whole)
        before = {run.info.run_id for run in runs()}
        process = start_dying(
            store, command, spelled(ALONE[command]), random.Random(SEED + 3000 + number).randrange(reached)
        )
        process.wait(120)
        assert process.returncode in (-signal.SIGKILL, 0), process.said()
        begun = [run for run in runs() if run.info.run_id not in before and "mm.stage" in run.data.tags]
        assert do(command, f"resume_run={begun[-1].info.run_id}" if begun else ALONE[command]) == 0
        again = MlflowClient().get_run(begun[-1].info.run_id) if begun else by_stage()[command]
        assert (series_of(again), everything(again)) == expected
        assert again.info.status == "FINISHED"


@pytest.mark.verify
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("command", ["evaluate", "explore", "report", "prepare"])
def test_what_trains_nothing_is_simply_repeated(store, monkeypatch, tmp_path, command, number):
    with recorded(
        f"SIGKILL of {command} at a boundary of an API", "the same command does it again; -e repair closes the run"
    ):
        assert do("train", TRAINED) == 0
        run_id = by_stage()["train"].info.run_id
        words = {
            "evaluate": f"run_id={run_id}",
            "explore": f"run_id={run_id}",
            "report": "split=val",
            "prepare": "image_size=8 clip_seconds=0.1 workers=1",
        }[command]
        more = {"dataset": Folder(tmp_path).fill().write()} if command == "prepare" else {}
        reached = count_boundaries(lambda: do(command, words, **more), monkeypatch)
        whole = by_stage()["train" if command == "explore" else command]
        expected = series_of(whole), everything(whole)
        process = start_dying(
            store, command, spelled(words, **more), random.Random(SEED + 4000 + number).randrange(reached)
        )
        process.wait(120)
        assert process.returncode in (-signal.SIGKILL, 0), process.said()
        assert do(command, words, **more) == 0
        again = by_stage()["train" if command == "explore" else command]
        assert (series_of(again), everything(again)) == expected
        assert do("repair") == 0
        assert not [run for run in runs() if run.info.status == "RUNNING"]
        trained = MlflowClient().get_run(run_id)
        assert (trained.info.status, series_of(trained)) == ("FINISHED", series_of(by_stage()["train"]))


@pytest.mark.verify
@pytest.mark.parametrize("number", range(3))
def test_a_study_whose_command_is_killed_goes_on(undisturbed_trials, store, monkeypatch, number):
    with recorded("SIGKILL of the command of a study", "the same command goes on; its workers end by themselves"):
        process = start_command(store, "study", spelled(STUDY))
        wait_for(lambda: len(runs()) > number + 1, process)
        time.sleep(random.Random(SEED + 5000 + number).uniform(0.0, 2.0))
        process.kill()
        process.wait(60)
        monkeypatch.setattr(USED_BY_STUDIES, start_forked)
        assert do("study", STUDY) == 0
        found = trials()
        assert len(found) == 2
        same = found.keys() & undisturbed_trials.keys()
        assert {key: found[key] for key in same} == {key: undisturbed_trials[key] for key in same}
        assert do("repair") == 0
        assert not [run for run in runs() if run.info.status == "RUNNING"]


TABLES = "preset=quick seeds=1 workers=2 device=cpu"


def rows_of_tables():
    """What every row of the tables has, by what it is."""
    found = [run for run in runs() if "mm.job" in run.data.tags and run.info.status == "FINISHED"]
    assert len({run.data.tags["mm.job"] for run in found}) == len(found), "a row is there twice"
    return {run.data.tags["mm.job"]: (series_of(run), everything(run)) for run in found}


@pytest.fixture(scope="module")
def undisturbed_tables(tmp_path_factory, empty_database):
    with store_of_a_fixture(tmp_path_factory.mktemp("undisturbed"), empty_database):
        assert do("reproduce", TABLES) == 0
        found = rows_of_tables()
    assert found
    return found


@pytest.mark.verify
@pytest.mark.parametrize("number", range(2))
def test_tables_whose_command_is_killed_go_on(undisturbed_tables, store, number):
    with recorded("SIGKILL of reproduce at a random second", "the same command trains what is missing"):
        process = start_command(store, "reproduce", spelled(TABLES))
        wait_for(runs, process)
        time.sleep(random.Random(SEED + 6000 + number).uniform(0.0, 15.0))
        process.kill()
        process.wait(60)
        assert do("reproduce", TABLES) == 0
        assert rows_of_tables() == undisturbed_tables
        assert do("repair") == 0
        assert not [run for run in runs() if run.info.status == "RUNNING"]
