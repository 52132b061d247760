"""Studies with real training on a part of `digits`, whose workers are processes."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from mm_balance.study.handle import find_study
from tests.helpers.commands import artifacts, call, do, fetch, newest, runs, spelled, steps
from tests.helpers.faults import everything
from tests.helpers.processes import (
    LAUNCHER_VARIABLE,
    USED_BY_STUDIES,
    Fate,
    Spawned,
    fates,
    in_epoch,
    mlflow_run,
    mlflow_words,
    python_words,
    start_forked,
    wait_for,
)

pytestmark = pytest.mark.slow
SHORT = "preset=quick train_fraction=0.05 pruner=none"


@pytest.fixture(scope="module")
def studies(shared_store):
    """One store for all, with forked workers: the warm-up is trained once."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "studies")
        patch.setattr(USED_BY_STUDIES, start_forked)
        torch.set_num_threads(1)
        yield shared_store
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def trials_of(name):
    return {int(run.data.tags["mm.trial"]): run for run in runs(study=name, stage="trial")}


def in_training(name):
    """The first trial that has logged an epoch and has not ended."""
    for run in trials_of(name).values():
        if run.info.status == "RUNNING" and "train/loss" in run.data.metrics:
            return run
    return None


def kill_worker_program(name):
    """Kill one worker of a study on this machine."""
    found = subprocess.run(["pgrep", "-f", f"entrypoints.worker --study_name {name}"], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)


WHOLE = f"{SHORT} study_name=whole sampler=random search=weights space=anneal=cosine|linear,hard_weight=0.5"


@pytest.fixture(scope="module")
def whole(studies):
    """A study confirmed on two seeds."""
    assert do("study", f"{WHOLE} trials=6 confirm_seeds=2") == 0
    (parent,) = runs(study="whole", stage="study")
    return parent


def test_parent_and_trials(whole):
    assert whole.info.status == "FINISHED"
    trials = trials_of("whole")
    assert sorted(trials) == list(range(6))
    for number, run in trials.items():
        assert run.info.run_name == f"trial-{number:04d}"
        assert run.data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert run.data.tags["mm.warmup_run"] == whole.data.tags["mm.warmup_run"]
        own = {name for name in run.data.params if name.startswith("config/")}
        assert own <= {"config/anneal", "config/unimodal_weight", "config/gap_weight", "config/shift_weight",
                       "config/balanced_fusion_weight"}  # what was searched: the rest is the parent's  # fmt: skip
        assert run.info.status in ("FINISHED", "KILLED")
    assert whole.data.params["config/hard_weight"] == "0.5"  # fixed by `space`
    assert whole.data.params["config/method"] == "gap_mixture"
    assert whole.data.tags["study/trials"] == "6"
    settings = json.loads(fetch(whole, "study/settings.json").read_text())
    assert settings["warmups"] == {"0": whole.data.tags["mm.warmup_run"]}
    complete = {number: run for number, run in trials.items() if run.info.status == "FINISHED"}
    best = max(run.data.metrics["val/accuracy"] for run in complete.values())
    assert whole.data.metrics["study/best_value"] == best
    history = MlflowClient().get_metric_history(whole.info.run_id, "study/best_value")
    assert [point.value for point in history] == sorted(point.value for point in history)
    assert not any(name.startswith("test/") for run in trials.values() for name in run.data.metrics)
    assert len(artifacts(complete[0], "refits")) == 3  # the warm-up's fit and one after each epoch
    files = {Path(path).name for path in artifacts(whole, "study")}
    for name in ("history", "slice", "parallel_coordinate", "contour"):
        assert {f"{name}.png", f"{name}.pdf"} <= files
    assert {name for name in files if name.endswith(".html")} == {"figures.html"}, "one page for all"
    assert "importance.png" not in files, "too few trials"
    assert {"trials.csv", "trials.json", "best.yaml", "settings.json", "confirmation.json", "workers"} <= files


def test_the_trial_links_to_the_study_and_back(whole):
    table = fetch(whole, "study/trials.csv").read_text().splitlines()
    for number, run in trials_of("whole").items():
        assert whole.info.run_id in run.data.tags["mlflow.note.content"]
        assert run.info.run_id in table[number + 1]


def test_the_confirmation_compares_on_new_seeds(whole):
    told = json.loads(fetch(whole, "study/confirmation.json").read_text())
    assert [row["seed"] for row in told["rows"]] == [1, 2]
    confirmed = runs(study="whole-confirm", stage="adaptive")
    assert len(confirmed) == 4
    for row in told["rows"]:
        for label in ("best", "start"):
            (run,) = [
                run for run in confirmed
                if run.data.tags["mm.confirms"] == label and run.data.tags["mm.seed"] == str(row["seed"])
            ]  # fmt: skip
            assert run.data.metrics["val/accuracy"] == row[label]
    assert "new seeds the best trial" in whole.data.tags["mlflow.note.content"]


@pytest.mark.verify
def test_the_printed_line_and_the_preset_train_the_best_trial_again(whole, monkeypatch):
    command = re.search(r"^    (mlflow run (?:.*\\\n)*.*)$", whole.data.tags["mlflow.note.content"], re.MULTILINE)[1]
    words = shlex.split(command.replace("\\\n", " "))
    pairs = [word.split("=", 1) for word in words[words.index("-P") :] if word != "-P"]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "again")
    assert call("adaptive", [word for name, value in pairs for word in (f"--{name}", value)]) == 0
    best = max(trials_of("whole").values(), key=lambda run: run.data.metrics.get("val/accuracy", 0))
    again = newest(stage="adaptive")
    assert again.data.metrics["train/loss"] == best.data.metrics["train/loss"]  # to the last bit
    assert again.data.metrics["val/loss"] == best.data.metrics["val/loss"]
    preset = fetch(whole, "study/best.yaml")
    assert yaml.safe_load(preset.read_text())["hard_weight"] == 0.5
    assert do("adaptive", preset=preset) == 0
    by_preset = newest(stage="adaptive")
    assert by_preset.info.run_id != again.info.run_id
    assert by_preset.data.metrics["val/loss"] == best.data.metrics["val/loss"]


def test_the_same_command_goes_on_and_other_settings_are_refused(whole, capsys):
    assert do("study", f"{WHOLE} trials=7") == 0
    assert sorted(trials_of("whole")) == list(range(7))
    assert len(runs(study="whole", stage="study")) == 1
    assert do("study", f"{WHOLE} gap_weight=0.9") == 1
    assert "exists with other settings: gap_weight=0.9 (not 0.5)" in capsys.readouterr().err


@pytest.mark.verify
def test_a_trial_is_the_same_to_the_last_bit_wherever_it_ran(studies):
    values = {}
    for workers in (2, 3):
        name = f"workers-{workers}"
        assert do("study", f"{SHORT} study_name={name} workers={workers} trials=4 sampler=random") == 0
        values[workers] = {
            tuple(sorted((key, value) for key, value in run.data.params.items() if key.startswith("config/") and "device" not in key)):
            (run.data.metrics["train/loss"], run.data.metrics["val/loss"])
            for run in trials_of(name).values()
        }  # fmt: skip
    assert len(values[2]) == 4
    assert values[2] == values[3]


def check_that_it_goes_on_from_checkpoints(name, words, trials, epochs):
    """After a stop the same command finishes what was under way."""
    stopped = {run.info.run_id for run in trials_of(name).values() if run.info.status == "FAILED"}
    assert stopped
    assert do("study", words) == 0
    (parent,) = runs(study=name, stage="study")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["study/trials_complete"] == trials
    resumed = [run for run in trials_of(name).values() if "mm.resumed_from_epoch" in run.data.tags]
    assert len(resumed) == len(stopped)
    for run in resumed:
        assert steps(run) == sorted(set(steps(run)))
        assert len(steps(run)) == epochs


@pytest.mark.verify
def test_one_signal_leaves_nothing_running_and_the_same_command_goes_on(studies, capsys):
    words = f"{SHORT} study_name=stopped trials=2 workers=1 adaptive_epochs=4"
    fates.append(Fate(3, signal.SIGINT, to_launcher=True))
    assert do("study", words) == 128 + signal.SIGINT
    assert "run the same command again to resume" in capsys.readouterr().err
    assert not [run for run in runs() if run.info.status == "RUNNING"]
    (parent,) = runs(study="stopped", stage="study")
    assert parent.info.status == "KILLED"
    check_that_it_goes_on_from_checkpoints("stopped", words, 2, 4)


@pytest.mark.verify
def test_a_killed_worker_is_replaced_and_its_trial_taken_over(studies, capsys):
    fates.append(Fate(3, signal.SIGKILL))
    assert do("study", f"{SHORT} study_name=killed trials=3 adaptive_epochs=4 refit_every=1 worker_restarts=2") == 0
    assert "starting another" in capsys.readouterr().err
    check_taken_over("killed", 3)


def check_taken_over(name, trials):
    (parent,) = runs(study=name, stage="study")
    assert parent.data.metrics["study/trials_complete"] == trials
    statuses = [run.info.status for run in trials_of(name).values()]
    assert sorted(statuses) == ["FAILED"] + ["FINISHED"] * trials
    (again,) = [run for run in trials_of(name).values() if "mm.retry_of" in run.data.tags]
    assert again.info.status == "FINISHED"
    undisturbed = [run for run in trials_of(name).values() if run.info.status == "FINISHED" and run is not again]
    assert again.data.tags.keys() >= {"mlflow.loggedImages"}
    for other in undisturbed:
        assert everything(again) == everything(other)
        assert {metric: steps(again, metric) for metric in again.data.metrics} == {
            metric: steps(other, metric) for metric in other.data.metrics
        }


@pytest.mark.verify
def test_workers_that_keep_dying_end_the_study_and_what_was_found_stays(studies, capsys):
    fates.append(Fate(4, signal.SIGKILL))  # in the second trial
    assert do("study", f"{SHORT} study_name=dying trials=50 worker_restarts=0 workers=1") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "ended with signal 9, after 0 restarts (worker_restarts)" in error
    check_that_what_was_found_stays("dying")


def check_that_what_was_found_stays(name):
    (parent,) = runs(study=name, stage="study")
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["study/trials_complete"] >= 1
    assert "RUNNING" not in {run.info.status for run in trials_of(name).values()}


@pytest.mark.verify
def test_a_worker_whose_launcher_is_gone_stops_and_says_so(studies, monkeypatch):
    assert do("study", f"{SHORT} study_name=left trials=1 workers=1") == 0
    find_study("left", "auto").study.set_user_attr("trials", 2)
    launcher = os.getppid()
    monkeypatch.setenv(LAUNCHER_VARIABLE, str(launcher))
    in_epoch(2, lambda: monkeypatch.setattr(os, "getppid", lambda: 0), monkeypatch.setattr)
    assert do("worker", "study_name=left device=cpu") == 128 + signal.SIGTERM
    check_that_the_launcher_died("left")


def check_that_the_launcher_died(name):
    (parent,) = runs(study=name, stage="study")
    assert parent.info.status == "FAILED"
    assert "the launcher died" in parent.data.tags["mm.error"]
    assert "RUNNING" not in {run.info.status for run in trials_of(name).values()}


@pytest.mark.verify
def test_a_study_through_mlflow_run(store):
    """Launcher, warm-up and worker as programs of their own, as a user has them."""
    done = mlflow_run(store, "study", f"{SHORT} study_name=small trials=2 workers=1 sampler=random")
    assert done.returncode == 0, done.stderr[-3000:]
    (parent,) = runs(study="small", stage="study")
    assert parent.info.status == "FINISHED"
    assert parent.data.params["study_name"] == "small"  # what `mlflow run` logged before we started
    assert sorted(trials_of("small")) == [0, 1]
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert artifacts(parent, "study/workers") == {"study/workers/worker-0.log"}


# As programs of their own, what is above with forked processes.


@pytest.mark.verify
def test_ctrl_c_under_mlflow_run_leaves_nothing_running_and_the_same_command_goes_on(store):
    words = "preset=quick pruner=none study_name=stopped trials=6 adaptive_epochs=6"
    process = Spawned(mlflow_words("study", words), store)
    wait_for(lambda: in_training("stopped"), process)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does; MLflow then sends SIGTERM too
    process.wait(timeout=120)
    assert process.returncode != 0
    assert "mm_balance" not in process.said()  # no traceback of ours
    assert "run the same command again to resume" in process.said()
    assert not [run for run in runs() if run.info.status == "RUNNING"]
    (parent,) = runs(study="stopped", stage="study")
    assert parent.info.status == "FAILED"  # MLflow writes that over KILLED when the command of a project fails
    check_that_it_goes_on_from_checkpoints("stopped", words, 6, 6)


@pytest.mark.verify
def test_a_killed_worker_program_is_replaced_and_its_trial_taken_over(store):
    words = "preset=quick pruner=none study_name=killed trials=5 adaptive_epochs=5 refit_every=1 worker_restarts=2"
    process = Spawned(python_words("study", spelled(words)), store)
    wait_for(lambda: in_training("killed"), process)
    kill_worker_program("killed")
    assert process.wait(timeout=300) == 0, process.said()
    assert "starting another" in process.said()
    check_taken_over("killed", 5)


@pytest.mark.verify
def test_without_their_launcher_workers_end_and_leave_nothing_running(store):
    words = "preset=quick pruner=none study_name=orphaned trials=4 adaptive_epochs=20"
    process = Spawned(python_words("study", spelled(words)), store)
    wait_for(lambda: in_training("orphaned"), process)
    process.kill()
    process.wait()
    last = time.monotonic() + 100
    while (
        subprocess.run(["pgrep", "-f", "entrypoints.worker --study_name orphaned"], check=False).returncode == 0
        and time.monotonic() < last
    ):
        time.sleep(0.2)
    check_that_the_launcher_died("orphaned")


@pytest.mark.verify
def test_worker_programs_that_keep_dying_end_the_study_and_what_was_found_stays(store):
    words = "preset=quick pruner=none study_name=dying trials=50 worker_restarts=0 workers=1"
    process = Spawned(python_words("study", spelled(words)), store)

    def one_has_ended():
        return [run for run in trials_of("dying").values() if run.info.status == "FINISHED"] and in_training("dying")

    wait_for(one_has_ended, process)
    kill_worker_program("dying")
    assert process.wait(timeout=120) == 1
    error = process.said().strip().splitlines()[-1]
    assert "ended with signal 9, after 0 restarts (worker_restarts)" in error
    check_that_what_was_found_stays("dying")


@pytest.mark.verify
def test_a_study_and_its_confirmation_as_programs(store):
    done = mlflow_run(
        store, "study", "preset=quick study_name=whole trials=6 sampler=random search=weights confirm_seeds=2"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "new seeds the best trial" in done.stdout
    assert len(trials_of("whole")) == 6
    assert len(runs(study="whole-confirm", stage="adaptive")) == 4
