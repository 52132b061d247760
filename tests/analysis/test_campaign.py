"""What a search does with a training that diverges: a learning rate that is too high is a finding, not the end of the command."""

from dataclasses import replace

import pytest

from analysis import campaign
from analysis.leaderboard import Task, configuration
from mm_balance.errors import Diverged, UserError

TASK = Task(campaign.TUNING_SEED, "quick", 0.08, "concat", row="tuning concat learning_rate=0.08")


@pytest.fixture
def trained(store, monkeypatch):
    """The runs that a training which diverges was given."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "a-campaign")
    return []


def train_row(task, trained, error=Diverged):
    def train(run):
        trained.append(run)
        raise error("it went wrong")

    return campaign.train_row(task, None, train, test=task.test)


def test_a_trial_that_diverges_scores_nothing_and_is_not_trained_again(trained):
    assert train_row(TASK, trained) == "diverged"
    assert train_row(TASK, trained) == "already there"
    assert [run.read().info.status for run in trained] == ["FAILED"]
    assert campaign.score_of(TASK.row) == 0.0


def test_a_trial_that_was_never_trained_has_no_score(trained):
    with pytest.raises(AssertionError, match="was not trained"):
        campaign.score_of(TASK.row)


def test_a_row_of_the_table_that_diverges_ends_the_command_and_so_does_a_mistake(trained):
    with pytest.raises(Diverged):
        train_row(replace(TASK, row="concat", test=True), trained)
    with pytest.raises(UserError, match="went wrong"):
        train_row(TASK, trained, UserError)
    with pytest.raises(AssertionError, match="was not trained"):
        campaign.score_of(TASK.row)


def test_where_there_is_no_warm_up_it_has_diverged(trained, tiny_data):
    with pytest.raises(Diverged, match="warm-up"):
        campaign.started_warmup(configuration(TASK), tiny_data)
