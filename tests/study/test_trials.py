"""What counts as a trial, who takes over from the dead, and how runs and trials agree."""

from datetime import datetime, timedelta

import pytest
from optuna.trial import TrialState

from mm_balance.study import trials as study_trials
from mm_balance.study.storage import new_identity, worker_is_alive, worker_lock
from mm_balance.study.trial import suggest
from mm_balance.study.trials import KILLS, RETRY_OF, WORKER, all_trials, count_trials, fail_dead_trials, requeue
from mm_balance.tracking.lookup import nested_runs, open_run


def take(handle, worker="nobody/0"):
    trial = handle.study.ask()
    trial.set_user_attr(WORKER, worker)
    parameters = suggest(trial, handle.settings.dimensions)
    run = open_run("trial", parent=handle.parent, tags={"mm.study": handle.name, "mm.trial": str(trial.number)})
    return trial, parameters, run


def test_a_dead_workers_trial_fails_and_another_takes_it_over_with_the_same_parameters(new_desk):
    handle = new_desk()
    trial, parameters, run = take(handle)
    assert fail_dead_trials(handle.study, handle.parent, alive=lambda identity: True) == []
    assert fail_dead_trials(handle.study, handle.parent, alive=lambda identity: False) == [0]
    assert run.read().info.status == "FAILED"
    assert "worker process died" in run.read().data.tags["mm.error"]
    assert count_trials(all_trials(handle.study)) == study_trials.TrialCounts(waiting=1)
    again, same, _ = take(handle)
    assert same == parameters
    assert again.user_attrs[RETRY_OF] == trial.number
    assert again.user_attrs[KILLS] == 1


def test_a_trial_that_is_killed_twice_stays_failed(new_desk):
    handle = new_desk()
    take(handle)
    fail_dead_trials(handle.study, handle.parent, alive=lambda identity: False)
    take(handle)
    fail_dead_trials(handle.study, handle.parent, alive=lambda identity: False)
    assert count_trials(all_trials(handle.study)) == study_trials.TrialCounts(failed=1)
    assert "stays failed" in nested_runs(handle.parent, {"mm.trial": "1"})[0].read().data.tags["mm.error"]


def test_a_worker_killed_while_it_cleans_up_after_another_leaves_that_to_the_next(new_desk, monkeypatch):
    handle = new_desk()
    take(handle)

    class Killed(BaseException):
        pass

    def killed(*words):
        raise Killed

    with monkeypatch.context() as once:
        once.setattr(study_trials, "fail_runs", killed)
        with pytest.raises(Killed):
            fail_dead_trials(handle.study, handle.parent, alive=lambda identity: False)
    assert fail_dead_trials(handle.study, handle.parent, alive=lambda identity: False) == [0]
    (run,) = nested_runs(handle.parent, {"mm.trial": "0"})
    assert run.read().info.status == "FAILED"
    assert count_trials(all_trials(handle.study)) == study_trials.TrialCounts(waiting=1)


def test_a_stop_is_no_kill(new_desk):
    handle = new_desk()
    trial, _, _ = take(handle)
    for _ in range(3):
        handle.study.tell(trial.number, state=TrialState.FAIL)
        assert requeue(handle.study, all_trials(handle.study)[trial.number], killed=False)
        trial, _, _ = take(handle)
    assert trial.user_attrs[KILLS] == 0
    assert count_trials(all_trials(handle.study)) == study_trials.TrialCounts(running=1)


def test_a_trial_that_nobody_has_signed_is_given_up_after_a_while(new_desk, monkeypatch):
    handle = new_desk()
    handle.study.ask()
    assert fail_dead_trials(handle.study, handle.parent) == []

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now() + timedelta(seconds=study_trials.START_SECONDS + 1)

    monkeypatch.setattr(study_trials, "datetime", Later)
    assert fail_dead_trials(handle.study, handle.parent) == [0]
    assert count_trials(all_trials(handle.study)) == study_trials.TrialCounts(waiting=1)


def test_a_worker_is_alive_while_it_holds_its_lock_and_on_other_hosts_always(store):
    mine = new_identity()
    assert not worker_is_alive("mine", mine)
    with worker_lock("mine", mine):
        assert worker_is_alive("mine", mine)
    assert not worker_is_alive("mine", mine)
    assert worker_is_alive("mine", "another-host/1-x")


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_finished_trials_count_once(new_desk, state):
    handle = new_desk()
    trial, _, _ = take(handle)
    if state == TrialState.PRUNED:
        trial.report(0.5, 1)
    handle.study.tell(trial, 1.0 if state == TrialState.COMPLETE else None, state=state)
    assert count_trials(all_trials(handle.study)).finished == 1
