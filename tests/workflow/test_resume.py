"""Whatever is continued, its run says what was trained: parameters, tags, fingerprint, and weights that give the logged numbers."""

import os
import signal
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.engine import loop
from mm_balance.engine.evaluate import split_metrics
from mm_balance.folders import work_folder
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.stage import saved_state
from tests.helpers.commands import (
    QUICK,
    artifact_folder,
    artifacts,
    config_of,
    do,
    images,
    newest,
    runs,
    series_of,
    steps,
    values,
)

pytestmark = pytest.mark.usefixtures("signals", "store")


@pytest.fixture
def stop_in_epoch(monkeypatch):
    """A function that makes training stop in the middle of a stage's epoch, as SIGTERM does."""

    def arrange(epoch):
        plan = loop.plan_epoch

        def planned(stage, progress, clock, stop_requested):
            if progress.stage_epoch == epoch:
                os.kill(os.getpid(), signal.SIGTERM)
            return plan(stage, progress, clock, stop_requested)

        monkeypatch.setattr(loop, "plan_epoch", planned)
        return lambda: monkeypatch.setattr(loop, "plan_epoch", plan)

    return arrange


def check_validation_is_what_was_logged(run_id):
    """`evaluate split=val` gives the run's numbers to the last bit."""
    run = MlflowClient().get_run(run_id)
    assert do("evaluate", f"run_id={run_id} split=val device=cpu") == 0
    found = newest(evaluated_run=run_id).data.metrics
    assert found == {name: run.data.metrics[name] for name in found}
    assert {"val/accuracy", "val/loss", "val/gap_mean"} <= set(found)


@pytest.mark.verify
def test_a_warm_up_that_grew_is_the_longer_warm_up_and_no_other():
    assert do("warmup", f"{QUICK} warmup_epochs=1") == 0
    run = newest(stage="warmup")
    short = run.data.tags["mm.fingerprint"]
    assert do("warmup", f"resume_run={run.info.run_id} warmup_epochs=3") == 0
    grown = MlflowClient().get_run(run.info.run_id)
    assert config_of(grown)["warmup_epochs"] == 3
    assert grown.data.tags["config/warmup_epochs"] == "3"
    assert "config/warmup_epochs" not in grown.data.params  # it could never be changed
    assert grown.data.tags["mm.fingerprint"] != short
    assert grown.data.tags["mm.grown"] == "warmup_epochs 1 -> 3 after epoch 1"
    check_validation_is_what_was_logged(run.info.run_id)

    assert do("adaptive", f"{QUICK} adaptive_epochs=1") == 1  # a warm-up of the preset's 2 epochs there never was

    assert do("warmup", f"{QUICK} warmup_epochs=3") == 0
    fresh = newest(stage="warmup")
    assert fresh.info.run_id != run.info.run_id
    assert fresh.data.tags["mm.fingerprint"] == grown.data.tags["mm.fingerprint"]  # rightly:
    expected = values(fresh, ("val/accuracy", "val/loss", "train/loss"))
    assert values(grown, ("val/accuracy", "val/loss", "train/loss")) == expected
    assert values(fresh, ("gap/mean",))["gap/mean"][-1] == values(grown, ("gap/mean",))["gap/mean"][-1]
    first, second = (saved_state(TrackedRun(item.info.run_id))["model"] for item in (fresh, grown))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.verify
def test_a_warm_up_that_grew_serves_the_settings_that_it_has_now_and_not_those_it_had():
    assert do("warmup", QUICK) == 0
    run = newest(stage="warmup")
    assert do("warmup", f"resume_run={run.info.run_id} warmup_epochs=3") == 0
    assert do("adaptive", f"{QUICK} adaptive_epochs=1") == 1
    assert do("warmup", f"{QUICK} warmup_epochs=1") == 0
    other = newest(stage="warmup")
    assert do("warmup", f"resume_run={other.info.run_id} warmup_epochs=2") == 0
    assert do("adaptive", f"{QUICK} adaptive_epochs=1") == 0
    assert newest(stage="adaptive").data.tags["mm.warmup_run"] == other.info.run_id


@pytest.mark.verify
def test_grown_and_stopped_the_printed_line_reaches_the_grown_end(stop_in_epoch, capsys):
    assert do("train", f"{QUICK} method=concat epochs=2 refit_every=2") == 0
    run = newest(stage="train")
    undo = stop_in_epoch(3)
    assert do("train", f"resume_run={run.info.run_id} epochs=6") == 128 + signal.SIGTERM
    undo()
    assert f"-e train -P resume_run={run.info.run_id}" in capsys.readouterr().err
    assert MlflowClient().get_run(run.info.run_id).info.status == "KILLED"
    assert do("train", f"resume_run={run.info.run_id}") == 0
    after = MlflowClient().get_run(run.info.run_id)
    assert after.info.status == "FINISHED"
    assert steps(after) == [1, 2, 3, 4, 5, 6]
    assert config_of(after)["epochs"] == 6
    assert after.data.tags["config/epochs"] == "6"
    assert after.data.tags["mm.grown"] == "epochs 2 -> 6 after epoch 2"
    assert after.data.metrics["selection/last_epoch"] == 6
    check_validation_is_what_was_logged(run.info.run_id)


@pytest.mark.verify
def test_a_run_that_grew_is_not_taken_for_one_that_was_planned_so():
    """Its rates fell to zero once before: it is no training of six epochs."""
    assert do("train", f"{QUICK} method=concat epochs=1 refit_every=2") == 0
    run = newest(stage="train")
    assert do("train", f"resume_run={run.info.run_id} epochs=2") == 0
    assert do("train", f"{QUICK} method=concat epochs=2 refit_every=2") == 0
    grown, planned = runs(stage="train")
    assert config_of(grown) == config_of(planned)
    assert grown.data.tags["mm.settings"] != planned.data.tags["mm.settings"]


@pytest.mark.verify
def test_main_grows_both_stages_and_keeps_what_it_replaces():
    assert do("main", f"{QUICK} warmup_epochs=1 adaptive_epochs=1") == 0
    run = newest(stage="main")
    assert do("main", f"resume_run={run.info.run_id} adaptive_epochs=2") == 0
    assert steps(newest(stage="adaptive")) == [2, 3]
    assert not runs(replaced="the warm-up has grown to 1 epochs since")

    assert do("main", f"resume_run={run.info.run_id} warmup_epochs=3") == 0
    after = MlflowClient().get_run(run.info.run_id)
    assert steps(newest(stage="warmup")) == [1, 2, 3]
    (adaptive,) = runs(stage="adaptive")
    assert steps(adaptive) == [4, 5]
    (old,) = runs(stage="replaced adaptive")
    assert steps(old) == [2, 3]
    assert old.data.tags["mm.replaced"] == "the warm-up has grown to 3 epochs since"
    assert after.info.status == "FINISHED"
    config = config_of(after)
    assert (config["warmup_epochs"], config["adaptive_epochs"]) == (3, 2)
    assert (after.data.tags["config/warmup_epochs"], after.data.tags["config/adaptive_epochs"]) == ("3", "2")
    warmup = newest(stage="warmup")
    assert config_of(warmup)["warmup_epochs"] == config_of(adaptive)["warmup_epochs"] == 3
    assert config_of(adaptive)["adaptive_epochs"] == 2
    assert after.data.tags["mm.fingerprint"] == warmup.data.tags["mm.fingerprint"]
    assert adaptive.data.tags["mm.fingerprint"] == warmup.data.tags["mm.fingerprint"]
    check_validation_is_what_was_logged(run.info.run_id)


@pytest.mark.verify
def test_main_shows_the_numbers_of_the_model_it_has_though_its_best_epoch_moved_back(monkeypatch):
    """Best after its last epoch at first; continued with a longer warm-up, best after its first one."""
    accuracy = iter([0.1, 0.2, 0.3, 0.4, 0.1, 0.9, 0.2, 0.1])

    def planned(seen, prefix):
        values = dict(split_metrics(seen, prefix))
        return values | ({"val/accuracy": next(accuracy)} if prefix == "val" else {})

    monkeypatch.setattr(loop, "split_metrics", lambda seen, prefix: planned(seen, prefix).items())
    assert do("main", f"{QUICK} warmup_epochs=1 adaptive_epochs=3 selection=best_validation") == 0
    run = newest(stage="main")
    assert run.data.metrics["val/accuracy"] == 0.4  # epoch 4
    assert do("main", f"resume_run={run.info.run_id} warmup_epochs=2") == 0
    after = MlflowClient().get_run(run.info.run_id)
    assert after.data.metrics["val/accuracy"] == 0.9  # epoch 3
    assert do("evaluate", f"run_id={run.info.run_id} split=val device=cpu") == 0
    found = newest(evaluated_run=run.info.run_id, stage="evaluate").data.metrics
    assert found["val/loss"] == after.data.metrics["val/loss"]


def test_settings_come_from_the_checkpoint_and_only_epochs_may_grow(capsys):
    assert do("warmup", f"{QUICK} warmup_epochs=2") == 0
    run = newest(stage="warmup")
    assert do("warmup", f"resume_run={run.info.run_id} warmup_epochs=1") == 1
    assert "started with warmup_epochs=2, it cannot be resumed with warmup_epochs=1" in capsys.readouterr().err
    assert do("warmup", f"resume_run={run.info.run_id} momentum=0.5") == 1
    assert "cannot be resumed with momentum=0.5" in capsys.readouterr().err


def test_more_than_one_kind_of_process_is_told():
    """A run begun with one thread and continued with two repeats by no one command."""
    assert do("warmup", f"{QUICK} warmup_epochs=1") == 0
    run = newest(stage="warmup")
    assert "mm.mixed" not in run.data.tags
    torch.set_num_threads(2)
    assert do("warmup", f"resume_run={run.info.run_id} warmup_epochs=2") == 0
    mixed = MlflowClient().get_run(run.info.run_id)
    assert mixed.data.tags["mm.mixed"] == "threads"
    files = {item.path for item in MlflowClient().list_artifacts(run.info.run_id)}
    assert {"environment.json", "environment_epoch_0001.json"} <= files
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert do("adaptive", f"{QUICK} warmup_epochs=2") == 1  # it stands for neither


def test_a_checkpoint_that_cannot_be_read_is_an_error_not_a_new_beginning(capsys):
    assert do("warmup", f"{QUICK} warmup_epochs=1") == 0
    run = newest(stage="warmup")
    (path,) = Path(unquote(urlparse(run.info.artifact_uri).path)).rglob("last")
    path.write_bytes(path.read_bytes()[:100])
    assert do("warmup", f"resume_run={run.info.run_id} warmup_epochs=2") == 1
    assert "cannot be resumed" in capsys.readouterr().err
    assert steps(MlflowClient().get_run(run.info.run_id)) == [1]


TRAINED = f"{QUICK} method=concat epochs=4 refit_every=1 selection=best_validation"


@pytest.fixture
def ended_in_epoch_3(monkeypatch):
    """A run whose process ended at once after it had published three of its four epochs, and the folder of its checkpoints."""
    plan = loop.plan_epoch

    def planned(stage, progress, clock, stop_requested):
        if progress.stage_epoch == 3:
            raise KeyboardInterrupt
        return plan(stage, progress, clock, stop_requested)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "plan_epoch", planned)
        assert do("train", TRAINED) == 128 + signal.SIGINT
    run = newest(stage="train")
    return run, work_folder(run.info.run_id)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(ended_in_epoch_3, capsys):
    run, folder = ended_in_epoch_3
    before = values(run)
    for damaged in (folder / "last", artifact_folder(run) / "checkpoints" / "last"):
        flip_a_bit(damaged)
    capsys.readouterr()
    assert do("train", f"resume_run={run.info.run_id}") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert str(folder / "last") in lines[0]
    assert f"checkpoints/last of run {run.info.run_id}" in lines[0]
    assert "going on from a whole one, after 2 epochs of the stage" in lines[0]

    resumed = MlflowClient().get_run(run.info.run_id)
    assert do("train", TRAINED) == 0
    undisturbed = newest(stage="train")
    assert undisturbed.info.run_id != run.info.run_id
    assert series_of(resumed) == series_of(undisturbed)
    assert {name: points[:3] for name, points in values(resumed).items()} == before  # epoch 3 was there already
    assert artifacts(resumed, "refits") == artifacts(undisturbed, "refits")
    assert len(images(resumed)) == len(images(undisturbed))
    check_validation_is_what_was_logged(run.info.run_id)


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_whole_one_before_it(ended_in_epoch_3, monkeypatch):
    """It is killed again, as it writes the first one after the damage."""
    run, folder = ended_in_epoch_3
    for damaged in (folder / "last", artifact_folder(run) / "checkpoints" / "last"):
        flip_a_bit(damaged)
    replace = os.replace

    def killed(source, target):
        if Path(target).name == "last":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert do("train", f"resume_run={run.info.run_id}") == 128 + signal.SIGINT
    assert do("train", f"resume_run={run.info.run_id}") == 0
    assert steps(run) == [1, 2, 3, 4]


def test_where_no_checkpoint_is_whole_one_line_says_what_can_be_done_and_a_whole_copy_is_enough(
    ended_in_epoch_3, capsys
):
    run, folder = ended_in_epoch_3
    copies = [folder / "last", folder / "previous", artifact_folder(run) / "checkpoints" / "last"]
    for damaged in copies:
        flip_a_bit(damaged)
    capsys.readouterr()
    assert do("train", f"resume_run={run.info.run_id}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    for part in (str(folder / "last"), str(folder / "previous"), "checkpoints/last of run", "repeat the command"):
        assert part in line
    assert MlflowClient().get_run(run.info.run_id).info.status == run.info.status
    assert steps(run) == [1, 2, 3]

    flip_a_bit(copies[-1])
    assert do("train", f"resume_run={run.info.run_id}") == 0
    assert "going on from a whole one, after 3 epochs of the stage" in capsys.readouterr().err
    assert steps(run) == [1, 2, 3, 4]


def test_the_best_weights_are_those_of_the_best_epoch_whenever_the_process_died(monkeypatch):
    """Killed after the state that calls an epoch the best, before its weights were saved as the best."""
    words = f"{QUICK} method=concat epochs=2 refit_every=2 selection=best_validation"
    from mm_balance.tracking.recorder import MlflowRecorder

    save = MlflowRecorder.save_best

    def killed(self, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowRecorder, "save_best", killed)
    assert do("train", words) == 128 + signal.SIGINT
    monkeypatch.setattr(MlflowRecorder, "save_best", save)
    run = newest(stage="train")
    assert do("train", f"resume_run={run.info.run_id}") == 0
    after = MlflowClient().get_run(run.info.run_id)
    assert after.info.status == "FINISHED"
    best = int(after.data.metrics["selection/best_epoch"])
    assert do("evaluate", f"run_id={run.info.run_id} split=val device=cpu") == 0
    logged = dict(values(after, ("val/loss",))["val/loss"])[best]
    assert newest(evaluated_run=run.info.run_id).data.metrics["val/loss"] == logged
