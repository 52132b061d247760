"""The search of the leaderboard on made-up scores: the same number of trials for all, shared grids, grids that grow."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.tuning import OPTION_ROUNDS, RATE_ROUNDS, Choices, Grid, Trial, Tuning, best, refinements, tune
from mm_balance.config import Option, options

RATES = Grid(options()["learning_rate"], (0.01, 0.02, 0.04))
WEIGHT = Option("weight", float, 1.0, "method", "", minimum=0.0)
SHARE = Option("share", float, 0.5, "method", "", minimum=0.0, maximum=1.0)
EPOCHS = Option("epochs", int, 2, "method", "", minimum=1)


def grid(option=WEIGHT, values=(0.5, 1.0, 2.0), even=False):
    return Grid(option, values, even)


def peak(rate, setting=None):
    """A score that is highest at these values, and falls with the distance in octaves."""

    def score(trial):
        far = abs(math.log2(trial.rate / rate))
        return -far - (0.1 * abs(math.log2(trial.setting / setting)) if setting else 0.0)

    return score


def search(spaces, scores, rates=RATES):
    """The result, and the rounds of trials that were asked for."""
    rounds = []

    def score(wanted):
        rounds.append({method: list(trials) for method, trials in wanted.items()})
        return {method: [scores[method](trial) for trial in trials] for method, trials in wanted.items()}

    return tune(spaces, rates, score), rounds


def settings(tuning, method):
    return sorted({trial.setting for trial in tuning.scores[method]})


def test_where_no_best_lies_at_an_edge_there_are_five_trials():
    tuning, rounds = search({"mine": grid(), "plain": None}, {"mine": peak(0.02, 1.0), "plain": peak(0.02)})
    assert [len(trials["mine"]) for trials in rounds] == [3, 2]
    assert tuning.trials == 5
    assert list(tuning.scores["mine"]) == [
        Trial(0.02, 1.0), Trial(0.01, 1.0), Trial(0.04, 1.0), Trial(0.02, 0.5), Trial(0.02, 2.0),
    ]  # fmt: skip
    # A method without an option has rates between its best and both neighbors: sqrt(.01 * .02), sqrt(.02 * .04).
    assert [trial.rate for trial in list(tuning.scores["plain"])[3:]] == [0.0141, 0.0283]
    assert tuning.edges("mine") == tuning.edges("plain") == []


def test_a_best_at_the_edge_widens_the_grid_for_all_who_share_it_and_nobody_has_fewer_trials():
    """What happened: the control had {.5, 1, 2}, ours {1, 2, 4}, and ours won at 4."""
    shared, other = grid(), grid(option=SHARE, values=(0.3, 0.5, 0.7), even=True)
    spaces = {"control": shared, "ours": shared, "other": other, "words": Choices(("a=1", "a=2")), "plain": None}
    scores = {
        "control": peak(0.02, 1.0), "ours": peak(0.02, 4.0), "other": peak(0.02, 0.5),
        "words": lambda trial: float(trial.setting == "a=2"), "plain": peak(0.02),
    }  # fmt: skip
    tuning, rounds = search(spaces, scores)
    assert tuning.best("ours") == Trial(0.02, 4.0)
    assert settings(tuning, "control") == settings(tuning, "ours") == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert tuning.spaces["control"] is tuning.spaces["ours"]
    assert tuning.spaces["other"].values == (0.3, 0.5, 0.7)  # not shared: not wider, but as many trials
    assert tuning.trials == 7
    assert all(len({len(trials) for trials in wanted.values()}) == 1 for wanted in rounds)
    assert tuning.edges("ours") == []  # 8 was tried and is worse


def test_all_rates_are_those_of_all_methods():
    tuning, _ = search({"slow": None, "fast": None, "mine": grid()}, {
        "slow": peak(0.005), "fast": peak(0.02), "mine": peak(0.02, 1.0)
    })  # fmt: skip
    assert tuning.rates.values == (0.005, 0.01, 0.02, 0.04)
    for method in ("slow", "fast", "mine"):
        assert {0.005, 0.01, 0.02, 0.04} <= {trial.rate for trial in tuning.scores[method]}


def test_growing_ends_and_the_edge_is_told():
    tuning, _ = search({"mine": grid(), "plain": None}, {"mine": peak(100.0, 100.0), "plain": peak(0.0001)})
    assert (RATE_ROUNDS, OPTION_ROUNDS) == (1, 2)
    assert tuning.rates.values == (0.005, 0.01, 0.02, 0.04, 0.08)
    assert tuning.spaces["mine"].values == (0.5, 1.0, 2.0, 4.0, 8.0)
    assert tuning.edges("mine") == ["`learning_rate`", "`weight`"]
    assert tuning.edges("plain") == ["`learning_rate`"]


def test_a_grid_ends_where_the_option_does():
    tuning, _ = search({"mine": grid(EPOCHS, (1, 2, 4))}, {"mine": peak(0.02, 1)})
    assert tuning.spaces["mine"].values == (1, 2, 4)
    assert tuning.edges("mine") == ["`epochs` (bound)"]
    assert tuning.trials == 5
    even = grid(SHARE, (0.3, 0.5, 0.7), even=True)
    assert (even.beyond("low"), even.beyond("high")) == (0.1, 0.9)
    wider, _ = even.widened([0.3, 0.7])
    assert (wider.beyond("low"), wider.beyond("high")) == (None, None)


def test_of_equal_scores_the_middle_counts_so_that_nothing_grows_for_nothing():
    tuning, rounds = search({"mine": grid(), "plain": None}, {"mine": lambda _: 0.5, "plain": lambda _: 0.5})
    assert tuning.best("mine") == Trial(0.02, 1.0)
    assert len(rounds) == 2


def test_without_a_search_of_rates_only_the_option_is_tuned():
    """As the first result does: one rate, control and method on one grid."""
    shared, rate = grid(), Grid(options()["learning_rate"], (0.02,))
    tuning, _ = search({"control": shared, "ours": shared}, {"control": peak(0.02, 1.0), "ours": peak(0.02, 4.0)}, rate)
    assert tuning.rates.values == (0.02,)
    assert settings(tuning, "control") == settings(tuning, "ours") == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert (tuning.trials, tuning.edges("control")) == (5, [])


@given(st.integers(0, 10**6))
def test_whatever_the_scores_all_have_as_many_trials_and_no_trial_twice(seed):
    shared = grid()
    spaces = {
        "control": shared, "ours": shared, "whole": grid(EPOCHS, (1, 2, 4)), "even": grid(SHARE, (0.3, 0.5, 0.7), True),
        "words": Choices(("a=1", "a=2", "a=3")), "two words": Choices(("a=1", "a=2")), "plain": None, "plain too": None,
    }  # fmt: skip
    asked = []

    def score(wanted):
        asked.extend((method, trial) for method, trials in wanted.items() for trial in trials)
        return {
            method: [Random(f"{seed} {method} {trial}").randrange(7) for trial in trials]
            for method, trials in wanted.items()
        }

    tuning = tune(spaces, RATES, score)
    assert len(asked) == len(set(asked)) == 8 * tuning.trials
    assert 5 <= tuning.trials <= 5 + 2 * (RATE_ROUNDS + OPTION_ROUNDS)
    for option in (WEIGHT, SHARE, EPOCHS):
        tried = [trial.setting for name, space in tuning.spaces.items() if isinstance(space, Grid) and space.option is option
                 for trial in tuning.scores[name]]  # fmt: skip
        assert all(option.minimum <= value and (option.maximum is None or value <= option.maximum) for value in tried)
        assert all(isinstance(value, option.type) for value in tried)
    # The same scores give the same search: a command that was stopped goes on where it was.
    again = []
    tune(spaces, RATES, lambda wanted: again.append(wanted) or score(wanted))
    assert [(m, t) for wanted in again for m, trials in wanted.items() for t in trials] == asked[: len(asked) // 2]


def test_refinements_lie_between_the_best_and_its_better_neighbor_first():
    scores = {Trial(0.02, 1.0): 0.9, Trial(0.02, 0.5): 0.7, Trial(0.02, 2.0): 0.8, Trial(0.01, 1.0): 0.6}
    found = list(refinements(scores, RATES, grid()))
    assert found[:2] == [Trial(0.02, 1.41), Trial(0.02, 0.707)]
    assert Trial(0.0141, 1.0) in found
    assert best(scores) == Trial(0.02, 1.0)


def test_unequal_numbers_of_trials_are_an_error():
    with pytest.raises(ValueError, match="different numbers of trials"):
        _ = Tuning({"mine": {Trial(0.02, None): 0.5}, "other": {}}, RATES, {}).trials
