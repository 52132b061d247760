"""What a search does with a training that diverges: a learning rate that is too high is a finding, not the end of the command."""

from dataclasses import replace
from typing import ClassVar

import pytest

from analysis import campaign, first_result
from analysis.leaderboard import Task, configuration, run_task
from analysis.tables import collect, table_runs
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import Diverged, UserError
from mm_balance.tracking.query import read_run
from mm_balance.workflow import provenance

TASK = Task(campaign.TUNING_SEED, "quick", 0.08, "concat", row="tuning concat learning_rate=0.08")
SETTINGS = "digest of everything"


@pytest.fixture
def trained(store, monkeypatch):
    """The runs that a training which diverges was given."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "a-campaign")
    return []


def train_row(task, trained, error=Diverged):
    def train(run):
        trained.append(run)
        raise error("it went wrong")

    return campaign.train_row(task, None, SETTINGS, train, test=task.test)


def test_a_trial_that_diverges_scores_nothing_and_is_not_trained_again(trained):
    assert train_row(TASK, trained) == campaign.TaskResult("diverged", SETTINGS)
    assert train_row(TASK, trained) == campaign.TaskResult("already there", SETTINGS)
    assert [run.read().info.status for run in trained] == ["FAILED"]
    assert campaign.score_of(TASK.row, SETTINGS) == 0.0


def test_a_trial_that_was_never_trained_has_no_score(trained):
    with pytest.raises(AssertionError, match="was not trained"):
        campaign.score_of(TASK.row, SETTINGS)


def test_a_row_of_the_table_that_diverges_ends_the_command_and_so_does_a_mistake(trained):
    with pytest.raises(Diverged):
        train_row(replace(TASK, row="concat", test=True), trained)
    with pytest.raises(UserError, match="went wrong"):
        train_row(TASK, trained, UserError)
    with pytest.raises(AssertionError, match="was not trained"):
        campaign.score_of(TASK.row, SETTINGS)


def test_where_there_is_no_warm_up_it_has_diverged(trained, tiny_data):
    with pytest.raises(Diverged, match="warm-up"):
        campaign.existing_warmup(configuration(TASK), tiny_data)


def test_a_run_of_other_settings_is_none_of_the_row(trained):
    """Same row and seed, but another learning rate, say, or other code: it is trained again, and has a score of its own."""
    assert train_row(TASK, trained).message == "diverged"

    def train(run):
        run.set_tags({"mm.settings": "other settings"})
        raise Diverged("again")

    assert campaign.train_row(TASK, None, "other settings", train, test=False).message == "diverged"
    with pytest.raises(AssertionError, match="was not trained"):
        campaign.score_of(TASK.row, "settings that nobody trained")


def test_what_was_trained_must_be_what_was_asked_for(trained):
    class Result:
        class progress:
            points: ClassVar = [MetricPoint(1, 0, {"val/accuracy": 0.5})]

    def train(run):
        run.set_tags({"mm.settings": "something else"})
        return Result

    with pytest.raises(UserError, match="was trained with settings other than requested"):
        campaign.train_row(TASK, None, SETTINGS, train, test=False)


@pytest.mark.verify
@pytest.mark.slow
def test_rows_are_used_again_only_where_settings_and_code_are_the_same(store, monkeypatch):
    """The same command twice trains once; another learning rate, another option or changed code train anew."""
    preset = store / "small.yaml"
    preset.write_text("warmup_epochs: 1\nadaptive_epochs: 1\nepochs: 2\nrefit_every: 1\ntrain_fraction: 0.05\n")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "small")
    task = Task(0, str(preset), 0.01, "concat_unimodal", "unimodal_weight=1.0", "concat_unimodal", test=True)
    done = [run_task(task) for _ in range(2)]
    assert [item.message == "already there" for item in done] == [False, True]
    assert done[0].settings == done[1].settings
    for other in (replace(task, options="unimodal_weight=4.0"), replace(task, rate=0.02)):
        assert run_task(other).message != "already there"
    preset.write_text(preset.read_text().replace("refit_every: 1", "refit_every: 2"))
    assert run_task(task).message != "already there"
    monkeypatch.setattr(provenance, "code_digest", lambda: "changed")
    last = run_task(task)
    assert last.message != "already there"
    (row,) = table_runs("small", {(task.row, 0): last.settings})  # the table takes the run it asked for
    assert row[1].tags["mm.code"] == "changed"
    with pytest.raises(UserError, match="no finished run with test accuracy of concat_unimodal seed 0"):
        table_runs("small", {(task.row, 0): "nobody's"})


@pytest.mark.slow
@pytest.mark.verify
def test_a_warm_up_of_another_experiment_serves_and_the_table_finds_it(store, monkeypatch):
    """`make demo`, then a campaign in the same store."""
    preset = store / "small.yaml"
    preset.write_text("warmup_epochs: 1\nadaptive_epochs: 1\nepochs: 2\nrefit_every: 1\ntrain_fraction: 0.05\n")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "demo")
    settings = (("preset", str(preset)),)
    assert first_result.run_task(first_result.Task(0, settings)).message.startswith("gap")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "campaign")
    assert first_result.run_task(first_result.Task(0, settings)).message == "already there"
    tasks = [
        first_result.Task(0, settings, "joint", "concat"),
        first_result.Task(0, (*settings, ("unimodal_weight", 2.0)), "control", "concat_unimodal"),
        first_result.Task(0, settings, "adaptive (reconstructed, default)", "gap_mixture"),
    ]
    done = {task: first_result.run_task(task) for task in tasks}
    frame = collect("campaign", {(task.row, 0): item.settings for task, item in done.items()})
    assert list(frame["row"]) == ["adaptive (reconstructed, default)", "control", "joint"]
    assert (frame["warm-up val/accuracy_audio"] > 0).all()
    control = read_run(frame.set_index("row").loc["control", "run"])
    assert (control.tags["mm.method"], control.parameters["method/unimodal_weight"]) == ("concat_unimodal", "2.0")
