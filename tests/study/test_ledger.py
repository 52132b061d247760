"""What counts as a trial, who takes over from the dead, and how runs and trials agree."""

from datetime import datetime, timedelta

import pytest
from optuna.trial import TrialState

from mm_balance.study import ledger
from mm_balance.study.ledger import KILLS, RETRY_OF, WORKER, all_trials, count, give_up_dead, hand_on
from mm_balance.study.storage import is_alive, new_identity, presence
from mm_balance.study.trial import suggest
from mm_balance.tracking.runs import nested_runs, open_run


def take(desk, worker="nobody/0"):
    trial = desk.study.ask()
    trial.set_user_attr(WORKER, worker)
    parameters = suggest(trial, desk.settings.dimensions)
    run = open_run("trial", parent=desk.parent, tags={"mm.study": desk.name, "mm.trial": str(trial.number)})
    return trial, parameters, run


def test_a_dead_workers_trial_fails_and_another_takes_it_over_with_the_same_parameters(new_desk):
    desk = new_desk()
    trial, parameters, run = take(desk)
    assert give_up_dead(desk.study, desk.parent, alive=lambda identity: True) == []
    assert give_up_dead(desk.study, desk.parent, alive=lambda identity: False) == [0]
    assert run.read().info.status == "FAILED"
    assert "worker process died" in run.read().data.tags["mm.error"]
    assert count(all_trials(desk.study)) == ledger.Count(waiting=1)
    again, same, _ = take(desk)
    assert same == parameters
    assert again.user_attrs[RETRY_OF] == trial.number
    assert again.user_attrs[KILLS] == 1


def test_a_trial_that_is_killed_twice_stays_failed(new_desk):
    desk = new_desk()
    take(desk)
    give_up_dead(desk.study, desk.parent, alive=lambda identity: False)
    take(desk)
    give_up_dead(desk.study, desk.parent, alive=lambda identity: False)
    assert count(all_trials(desk.study)) == ledger.Count(failed=1)
    assert "stays failed" in nested_runs(desk.parent, {"mm.trial": "1"})[0].read().data.tags["mm.error"]


def test_a_stop_is_no_kill(new_desk):
    desk = new_desk()
    trial, _, _ = take(desk)
    for _ in range(3):
        desk.study.tell(trial.number, state=TrialState.FAIL)
        assert hand_on(desk.study, all_trials(desk.study)[trial.number], killed=False)
        trial, _, _ = take(desk)
    assert trial.user_attrs[KILLS] == 0
    assert count(all_trials(desk.study)) == ledger.Count(running=1)


def test_a_trial_that_nobody_has_signed_is_given_up_after_a_while(new_desk, monkeypatch):
    desk = new_desk()
    desk.study.ask()
    assert give_up_dead(desk.study, desk.parent) == []

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now() + timedelta(seconds=ledger.UNCLAIMED_SECONDS + 1)

    monkeypatch.setattr(ledger, "datetime", Later)
    assert give_up_dead(desk.study, desk.parent) == [0]
    assert count(all_trials(desk.study)) == ledger.Count(waiting=1)


def test_a_worker_is_alive_while_it_holds_its_lock_and_on_other_hosts_always(store):
    mine = new_identity()
    assert not is_alive("mine", mine)
    with presence("mine", mine):
        assert is_alive("mine", mine)
    assert not is_alive("mine", mine)
    assert is_alive("mine", "another-host/1-x")


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_finished_trials_count_once(new_desk, state):
    desk = new_desk()
    trial, _, _ = take(desk)
    if state == TrialState.PRUNED:
        trial.report(0.5, 1)
    desk.study.tell(trial, 1.0 if state == TrialState.COMPLETE else None, state=state)
    assert count(all_trials(desk.study)).finished == 1
