"""Studies through `mlflow run`, with real training on a part of `digits`."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.tracking import MlflowClient

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One tracking store and cache for all: the warm-up is trained once."""
    folder = tmp_path_factory.mktemp("studies")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_RUN")},
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MM_BALANCE_CACHE": str(folder / "cache"),
        "MLFLOW_EXPERIMENT_NAME": "studies",
        "PYTHONPATH": str(ROOT),
        "TQDM_DISABLE": "1",
    }


@pytest.fixture
def client(environment):
    mlflow.set_tracking_uri(environment["MLFLOW_TRACKING_URI"])
    return MlflowClient()


def entry_point(name, environment, *words):
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{name}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def study(environment, *words):
    return entry_point("study", environment, "--preset", "quick", "--pruner", "none", *words)


def runs(client, name, **tags):
    experiment = client.get_experiment_by_name("studies")
    if experiment is None:  # no study has begun yet
        return []
    clauses = [f"tags.`mm.study` = '{name}'", *(f"tags.`mm.{key}` = '{value}'" for key, value in tags.items())]
    return client.search_runs([experiment.experiment_id], " and ".join(clauses))


def worker_of(name):
    """Process number of one worker of a study on this machine."""
    found = subprocess.run(["pgrep", "-f", f"entrypoints.worker --study_name {name}"], capture_output=True, text=True)
    return int(found.stdout.split()[0])


def trials_of(client, name):
    found = runs(client, name, stage="trial")
    return {int(run.data.tags["mm.trial"]): run for run in found}


@pytest.fixture(scope="module")
def whole(environment):
    """A study through `mlflow run`, confirmed on two seeds."""
    done = subprocess.run(
        ["mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "studies", "-e", "study",
         *("-P", "preset=quick"), *("-P", "study_name=whole"), *("-P", "trials=6"), *("-P", "sampler=random"),
         *("-P", "search=weights"), *("-P", "confirm_seeds=2"), *("-P", "space=anneal=cosine|linear,hard_weight=0.5")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_parent_and_trials(whole, client):
    (parent,) = runs(client, "whole", stage="study")
    assert parent.info.status == "FINISHED"
    trials = trials_of(client, "whole")
    assert sorted(trials) == list(range(6))
    for number, run in trials.items():
        assert run.info.run_name == f"trial-{number:04d}"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["mm.warmup_run"] == parent.data.tags["mm.warmup_run"]
        own = {name for name in run.data.params if name.startswith("config/")}
        assert own <= {"config/anneal", "config/unimodal_weight", "config/gap_weight", "config/shift_weight",
                       "config/balanced_fusion_weight"}  # what was searched: the rest is the parent's  # fmt: skip
        assert run.info.status in ("FINISHED", "KILLED")
    assert parent.data.params["config/hard_weight"] == "0.5"  # fixed by `space`
    assert parent.data.params["config/method"] == "gap_mixture"
    assert parent.data.tags["study/trials"] == "6"
    settings = json.loads(Path(client.download_artifacts(parent.info.run_id, "study/settings.json")).read_text())
    assert settings["warmups"] == {"0": parent.data.tags["mm.warmup_run"]}
    complete = {number: run for number, run in trials.items() if run.info.status == "FINISHED"}
    best = max(run.data.metrics["val/accuracy"] for run in complete.values())
    assert parent.data.metrics["study/best_value"] == best
    history = client.get_metric_history(parent.info.run_id, "study/best_value")
    assert [point.value for point in history] == sorted(point.value for point in history)
    assert not any(name.startswith("test/") for run in trials.values() for name in run.data.metrics)
    refits = client.list_artifacts(complete[0].info.run_id, "refits")
    assert len(refits) == 3  # the warm-up's fit and one after each epoch
    artifacts = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "study")}
    for name in ("history", "importance", "slice", "parallel_coordinate", "contour"):
        assert {f"{name}.html", f"{name}.png"} <= artifacts
    assert {"trials.csv", "trials.json", "best.yaml", "settings.json", "confirmation.json", "workers"} <= artifacts


def test_the_trial_links_to_the_study_and_back(whole, client):
    (parent,) = runs(client, "whole", stage="study")
    for number, run in trials_of(client, "whole").items():
        assert parent.info.run_id in run.data.tags["mlflow.note.content"]
        table = Path(client.download_artifacts(parent.info.run_id, "study/trials.csv")).read_text()
        assert run.info.run_id in table.splitlines()[number + 1]


def test_the_confirmation_compares_on_new_seeds(whole, client):
    (parent,) = runs(client, "whole", stage="study")
    told = json.loads(Path(client.download_artifacts(parent.info.run_id, "study/confirmation.json")).read_text())
    assert [row["seed"] for row in told["rows"]] == [1, 2]
    confirmed = runs(client, "whole-confirm", stage="adaptive")
    assert len(confirmed) == 4
    for row in told["rows"]:
        for label in ("best", "start"):
            (run,) = [
                run for run in confirmed
                if run.data.tags["mm.confirms"] == label and run.data.tags["mm.seed"] == str(row["seed"])
            ]  # fmt: skip
            assert run.data.metrics["val/accuracy"] == row[label]
    assert "new seeds the best trial" in whole.stdout
    assert "new seeds the best trial" in parent.data.tags["mlflow.note.content"]


def test_the_printed_line_and_the_preset_train_the_best_trial_again(whole, client, environment, tmp_path):
    (parent,) = runs(client, "whole", stage="study")
    command = re.search(r"^    (mlflow run (?:.*\\\n)*.*)$", parent.data.tags["mlflow.note.content"], re.MULTILINE)[1]
    words = shlex.split(command.replace("\\\n", " "))
    pairs = [word.split("=", 1) for word in words[words.index("-P") :] if word != "-P"]
    given = [word for name, value in pairs for word in (f"--{name}", value)]
    one_thread = {**environment, "OMP_NUM_THREADS": "1", "MLFLOW_EXPERIMENT_NAME": "again"}
    done = entry_point("adaptive", one_thread, *given)
    assert done.returncode == 0, done.stderr
    best = max(trials_of(client, "whole").values(), key=lambda run: run.data.metrics.get("val/accuracy", 0))
    again = client.get_run(re.search(r"run:  (\w+)", done.stdout)[1])
    assert again.data.metrics["train/loss"] == best.data.metrics["train/loss"]  # to the last bit
    assert again.data.metrics["val/loss"] == best.data.metrics["val/loss"]
    preset = Path(client.download_artifacts(parent.info.run_id, "study/best.yaml", str(tmp_path)))
    assert yaml.safe_load(preset.read_text())["tuned"]["hard_weight"] == 0.5
    done = entry_point("adaptive", one_thread, "--preset", str(preset))
    assert done.returncode == 0, done.stderr
    by_preset = client.get_run(re.search(r"run:  (\w+)", done.stdout)[1])
    assert by_preset.data.metrics["val/loss"] == best.data.metrics["val/loss"]


def test_the_same_command_goes_on_and_other_settings_are_refused(whole, client, environment):
    words = [
        "--study_name",
        "whole",
        "--search",
        "weights",
        "--sampler",
        "random",
        "--space",
        "anneal=cosine|linear,hard_weight=0.5",
    ]
    done = entry_point("study", environment, "--preset", "quick", "--trials", "7", *words)
    assert done.returncode == 0, done.stderr
    assert sorted(trials_of(client, "whole")) == list(range(7))
    assert len(runs(client, "whole", stage="study")) == 1
    refused = entry_point("study", environment, "--preset", "quick", *words, "--gap_weight", "0.9")
    assert refused.returncode == 1
    assert "exists with other settings: gap_weight=0.9 (not 0.5)" in refused.stderr


def test_a_trial_is_the_same_to_the_last_bit_wherever_it_ran(client, environment):
    values = {}
    for workers in (2, 3):
        name = f"workers-{workers}"
        done = study(
            environment, "--study_name", name, "--workers", str(workers), "--trials", "4", "--sampler", "random"
        )
        assert done.returncode == 0, done.stderr
        values[workers] = {
            tuple(sorted((key, value) for key, value in run.data.params.items() if key.startswith("config/") and "device" not in key)):
            (run.data.metrics["train/loss"], run.data.metrics["val/loss"])
            for run in trials_of(client, name).values()
        }  # fmt: skip
    assert len(values[2]) == 4
    assert values[2] == values[3]


def test_ctrl_c_leaves_nothing_running_and_the_same_command_goes_on(client, environment):
    words = ["--study_name", "stopped", "--trials", "6", "--adaptive_epochs", "6"]
    process = subprocess.Popen(
        ["mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "studies", "-e", "study",
         *("-P", "preset=quick"), *("-P", "pruner=none"), *("-P", "study_name=stopped"), *("-P", "trials=6"),
         *("-P", "adaptive_epochs=6")],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    last = time.monotonic() + 200
    while time.monotonic() < last and not any(
        "train/loss" in run.data.metrics for run in trials_of(client, "stopped").values()
    ):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does; MLflow then sends SIGTERM too
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "mm_balance" not in said  # no traceback of ours
    assert "the same command goes on" in said
    experiment = client.get_experiment_by_name("studies").experiment_id
    assert client.search_runs([experiment], "attributes.status = 'RUNNING'") == []
    (parent,) = runs(client, "stopped", stage="study")
    assert parent.info.status == "FAILED"  # MLflow writes that over KILLED when the command of a project fails
    stopped = {run.info.run_id for run in trials_of(client, "stopped").values() if run.info.status == "FAILED"}
    assert stopped
    done = study(environment, *words)
    assert done.returncode == 0, done.stderr
    (parent,) = runs(client, "stopped", stage="study")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["study/trials_complete"] == 6
    resumed = [run for run in trials_of(client, "stopped").values() if "mm.resumed_from_epoch" in run.data.tags]
    assert len(resumed) == len(stopped)  # from their checkpoints
    for run in resumed:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/accuracy")]
        assert steps == sorted(set(steps))
        assert len(steps) == 6


def test_a_killed_worker_is_replaced_and_its_trial_taken_over(client, environment):
    words = ["--study_name", "killed", "--trials", "5", "--adaptive_epochs", "5", "--worker_restarts", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.study", "--preset", "quick", "--pruner", "none", *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    last, victim = time.monotonic() + 200, None
    while time.monotonic() < last and victim is None:
        time.sleep(0.2)
        for run in trials_of(client, "killed").values():
            if run.info.status == "RUNNING" and "train/loss" in run.data.metrics:
                victim = run
                break
    os.kill(worker_of("killed"), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "starting another" in said
    (parent,) = runs(client, "killed", stage="study")
    assert parent.data.metrics["study/trials_complete"] == 5
    statuses = [run.info.status for run in trials_of(client, "killed").values()]
    assert sorted(statuses) == ["FAILED"] + ["FINISHED"] * 5
    (again,) = [run for run in trials_of(client, "killed").values() if "mm.retry_of" in run.data.tags]
    assert again.info.status == "FINISHED"


def test_without_their_launcher_workers_end_and_leave_nothing_running(client, environment):
    words = ["--study_name", "orphaned", "--trials", "4", "--adaptive_epochs", "20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.study", "--preset", "quick", "--pruner", "none", *words],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    last = time.monotonic() + 200
    while time.monotonic() < last and not [
        run for run in trials_of(client, "orphaned").values() if "train/loss" in run.data.metrics
    ]:
        time.sleep(0.2)
    process.kill()
    process.wait()
    while (
        time.monotonic() < last
        and subprocess.run(["pgrep", "-f", "entrypoints.worker --study_name orphaned"]).returncode == 0
    ):
        time.sleep(0.2)
    (parent,) = runs(client, "orphaned", stage="study")
    assert parent.info.status == "FAILED"
    assert "the launcher died" in parent.data.tags["mm.error"]
    assert "RUNNING" not in {run.info.status for run in trials_of(client, "orphaned").values()}


def test_workers_that_keep_dying_end_the_study_and_what_was_found_stays(client, environment):
    words = ["--study_name", "dying", "--trials", "50", "--worker_restarts", "0", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.study", "--preset", "quick", "--pruner", "none", *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    last = time.monotonic() + 200
    while time.monotonic() < last and not [
        run for run in trials_of(client, "dying").values() if run.info.status == "FINISHED"
    ]:
        time.sleep(0.2)
    os.kill(worker_of("dying"), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    error = said.strip().splitlines()[-1]
    assert "ended with signal 9, and 0 have been replaced already (worker_restarts)" in error
    (parent,) = runs(client, "dying", stage="study")
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["study/trials_complete"] >= 1
    assert "RUNNING" not in {run.info.status for run in trials_of(client, "dying").values()}
