"""`repair` closes what the dead have left, says how to go on, and touches nothing that lives."""

import os
import signal
import time

import pytest
from mlflow.tracking import MlflowClient

from mm_balance.folders import cache_folder, work_folder
from mm_balance.repair import files
from mm_balance.study.handle import make_study
from mm_balance.study.storage import new_identity
from mm_balance.study.trials import TrialCounts, all_trials, count_trials
from mm_balance.tracking import presence
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.outage.operations import Operation
from mm_balance.tracking.outage.spool import FILES, Spool, server_folder
from tests.helpers.commands import QUICK, adopt, do, newest, runs, spelled, steps
from tests.helpers.faults import start_fated
from tests.helpers.processes import wait_for
from tests.helpers.studies import settings_of
from tests.study.test_trials import take

pytestmark = pytest.mark.usefixtures("signals", "store")
SHORT = f"{QUICK} method=concat epochs=3 refit_every=3"


def repaired(capsys, words=""):
    capsys.readouterr()
    assert do("repair", words) == 0
    return capsys.readouterr().out.splitlines()


def everything_of(run_id):
    run = MlflowClient().get_run(run_id)
    files = {path: path.stat().st_mtime_ns for path in cache_folder().glob(f"*/{run_id}/*")}
    return run.info.status, run.data.tags, files


def age(path, seconds=2 * files.QUIET_SECONDS):
    path.write_bytes(b"half")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


@pytest.mark.slow
def test_a_dead_run_is_closed_and_can_be_resumed_and_a_living_one_beside_it_is_not_touched(store, capsys):
    dead = start_fated(store, "train", spelled(SHORT), 2)
    dead.wait(120)
    assert dead.returncode == -signal.SIGKILL
    run_id = newest(stage="train").info.run_id
    living = start_fated(store, "train", spelled(SHORT), 2, killed=False)
    wait_for(lambda: (found := newest(stage="train")).info.run_id != run_id and steps(found), living)
    alive_id = newest(stage="train").info.run_id
    half = age(work_folder(run_id) / ".last-abc")
    young = age(work_folder(run_id) / ".last-def", seconds=0)
    age(work_folder(alive_id) / ".last-abc")
    before = {run_id: everything_of(run_id), alive_id: everything_of(alive_id)}

    lines = repaired(capsys, "dry_run=true")
    resume = f"mlflow run . --env-manager local -e train -P resume_run={run_id}"
    assert any(run_id in line and "would be closed as KILLED" in line and resume in line for line in lines)
    assert any(str(half) in line and "would be removed" in line for line in lines)
    assert not any(alive_id in line or str(young) in line for line in lines)
    assert {item: everything_of(item) for item in before} == before

    assert [line.replace("would be ", "") for line in lines] == repaired(capsys)[: len(lines)]
    assert MlflowClient().get_run(run_id).info.status == "KILLED"
    assert not half.exists()
    assert young.exists()
    assert presence.marks(run_id) == []
    assert everything_of(alive_id) == before[alive_id]
    assert repaired(capsys) == ["nothing to repair"]

    assert do("train", f"resume_run={run_id}") == 0
    assert steps(MlflowClient().get_run(run_id)) == [1, 2, 3]
    living.kill()
    living.wait(60)
    assert any(alive_id in line and "closed as KILLED" in line for line in repaired(capsys))


def test_runs_of_other_machines_are_told_and_closed_only_after_silence_and_those_of_others_never(capsys):
    client = MlflowClient()
    hour = 3_600_000
    now = int(time.time() * 1000)
    tags = {"mm.process": "process 5 on elsewhere since 2026-11-30 08:00:00 UTC (train)", "mm.stage": "train"}
    silent = client.create_run("0", start_time=now - 9 * hour, tags=tags, run_name="silent").info.run_id
    busy = client.create_run("0", start_time=now - 9 * hour, tags=tags, run_name="busy").info.run_id
    client.log_metric(busy, "val/loss", 1.0, timestamp=now - hour, step=1)
    foreign = client.create_run("0", start_time=now - 99 * hour, run_name="of another program").info.run_id
    lines = repaired(capsys)
    assert len(lines) == 2
    assert all("whether it is alive cannot be seen from here" in line and "elsewhere" in line for line in lines)
    lines = repaired(capsys, "older_than_hours=5")
    assert any(silent in line and "closed as KILLED; run the same command again" in line for line in lines)
    assert [client.get_run(item).info.status for item in (silent, busy, foreign)] == ["KILLED", "RUNNING", "RUNNING"]


def test_files_that_nothing_needs_go_and_others_stay(capsys):
    finished, other = open_run("finished"), cache_folder() / "runs" / ("0" * 32)
    finished.log_bytes(b"weights", "checkpoints/last")
    stopped = open_run("stopped")
    for folder in (work_folder(finished.run_id), work_folder(stopped.run_id), other):
        folder.mkdir(parents=True)
        (folder / "last").write_bytes(b"weights")
    finished.terminate("FINISHED")
    stopped.terminate("KILLED")
    mark = presence.folder() / finished.run_id / "1-x"
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    worker = cache_folder() / "studies" / "some" / "alive" / "1-x"
    worker.parent.mkdir(parents=True)
    worker.touch()
    lines = repaired(capsys)
    assert len(lines) == 4
    assert not work_folder(finished.run_id).exists()
    assert (work_folder(stopped.run_id) / "last").exists()
    assert (other / "last").exists()
    assert any(str(other) in line and "its run is not in this store" in line for line in lines)
    assert not mark.exists()
    assert not worker.exists()


def test_what_was_logged_while_a_server_was_away_is_told_with_the_line_that_delivers_it(capsys):
    spool = Spool(server_folder("http://server:5000") / "1-x")
    (spool.folder / FILES).mkdir(parents=True)
    (spool.folder.parent / "server.txt").write_text("http://server:5000\n")
    spool.append(Operation("delete_tag", {"run": "r", "name": "n"}))
    (line,) = repaired(capsys)
    assert "1 entries for http://server:5000" in line
    assert "MLFLOW_TRACKING_URI=http://server:5000 mlflow run . --env-manager local -e sync" in line
    assert len(spool.pending()) == 1


def test_a_trial_of_a_dead_worker_is_queued_again_and_the_study_that_lives_goes_on(capsys):
    parent = open_run("study mine")
    parent.set_tags({"mm.stage": "study", "mm.study": "mine", "study/storage": "auto"})
    handle = make_study("mine", "auto", settings_of(), parent, 5)
    _, _, run = take(handle, new_identity())
    presence.leave(run.run_id)
    assert any("trial 0 of study mine" in line and "would be" in line for line in repaired(capsys, "dry_run=true"))
    assert count_trials(all_trials(handle.study)) == TrialCounts(running=1)
    (line,) = repaired(capsys)
    assert "trial 0 of study mine, of a dead worker: failed, and queued again" in line
    assert count_trials(all_trials(handle.study)) == TrialCounts(waiting=1)
    assert run.read().info.status == "FAILED"
    assert parent.read().info.status == "RUNNING"
    parent.terminate("KILLED")


def test_under_mlflow_run_its_own_run_has_the_lines(monkeypatch):
    status, run = adopt(monkeypatch, "repair", "dry_run=true")
    assert status == 0
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"] == "- nothing to repair"
    assert len(runs()) == 1
