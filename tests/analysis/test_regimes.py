"""Regimes of broken data: the same trials and budget for every method, and a table that keeps what a call does not name."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import regimes
from analysis.regimes import (
    CONTROL,
    OURS,
    REGIMES,
    SHUFFLED,
    TUNED,
    Task,
    configuration,
    page,
    write,
)
from mm_balance.errors import UserError
from mm_balance.methods import METHODS
from mm_balance.workflow.plans import trial_plan


def frame(regime, rows, seeds=3):
    """The i-th seed adds i hundredths to every row, and one thousandth to ours."""
    lines = []
    for row, value in rows.items():
        for seed in range(seeds):
            accuracy = value + 0.01 * seed + 0.001 * seed * (row == OURS)
            line = {"regime": regime, "row": row, "seed": 4000 + seed, "accuracy": accuracy}
            line |= {"accuracy_audio": value, "accuracy_visual": value / 2, "val_accuracy": value}
            lines.append(line | {"unimodal_weight": 16.0 if row == "gce" else 4.0, "run": "r", "hours": 1.0})
    return pd.DataFrame(lines)


BROKEN = frame("digits 40 % corrupted", {CONTROL: 0.9, OURS: 0.94, "gce": 0.92, "loss_mixture": 0.93, SHUFFLED: 0.9})
CLEAN = frame("digits clean", {CONTROL: 0.96, OURS: 0.96})


def test_differences_are_paired_with_intervals_and_the_edge_is_told():
    text = "\n".join(page(BROKEN))
    # Differences of 4.0, 4.1, 4.2: mean 4.1, and 4.303 * 0.1 / sqrt(3) = 0.25 on either side.
    assert (
        "| digits 40 % corrupted | 3 | +4.1 [+3.9, +4.3] | 0.000 | +4.1 [+3.9, +4.3] | +2.1 [+1.9, +2.3] | +1.1 [+0.9, +1.3] | +0.0"
        in text
    )
    assert "| gce | 3 | 93.0 ± 1.0 | 92.0 ± 0.0 | 46.0 ± 0.0 | +2.0 [+2.0, +2.0] |" in text
    assert "| 16 (edge) |" in text
    assert "| concat_unimodal | 3 | 91.0 ± 1.0 | 90.0 ± 0.0 | 45.0 ± 0.0 |  |  |  | 4 |" in text


def test_rows_of_other_seeds_are_shown_without_a_difference():
    """A row that an earlier call has left, with seeds of its own."""
    old = BROKEN[BROKEN["row"] == "gce"].assign(seed=lambda rows: rows["seed"] - 100)
    text = "\n".join(page(pd.concat([BROKEN[BROKEN["row"] != "gce"], old], ignore_index=True)))
    assert "| gce | 3 | 93.0 ± 1.0 | 92.0 ± 0.0 | 46.0 ± 0.0 |  |  |  | 16 (edge) |" in text


def test_p_values_are_adjusted_over_the_regimes():
    """Two regimes with the same p-value: Holm doubles it."""
    noisy = frame("digits clean", {CONTROL: 0.9, OURS: 0.9})
    noisy.loc[noisy["row"] == OURS, "accuracy"] += [0.01, 0.02, -0.005]
    alone = "\n".join(page(noisy))
    both = "\n".join(page(pd.concat([noisy, noisy.assign(regime="digits 10 % corrupted")])))
    p = float(alone.split("| digits clean | 3 |")[1].split("|")[1])
    assert 0.1 < p < 0.5
    assert f"| {min(1.0, 2 * p):.2f}" in both


def test_a_call_replaces_its_regimes_and_keeps_the_others(tmp_path):
    write(BROKEN, tmp_path)
    write(CLEAN, tmp_path)
    write(BROKEN[BROKEN["row"] != "gce"].assign(run="again"), tmp_path)
    table = pd.read_csv(tmp_path / "regimes.csv")
    assert list(dict.fromkeys(table["regime"])) == ["digits 40 % corrupted", "digits clean"]
    broken = table[table["regime"] == "digits 40 % corrupted"]
    assert set(broken[broken["row"] != "gce"]["run"]) == {"again"}
    assert set(broken[broken["row"] == "gce"]["run"]) == {"r"}, "a row that the second call did not name"
    assert len(table) == len(BROKEN) + len(CLEAN)
    assert "## digits clean" in (tmp_path / "regimes.md").read_text()


@pytest.mark.parametrize("regime", [name for name in REGIMES if name.startswith("digits")])
def test_every_method_has_the_budget_and_the_data_of_its_regime(regime):
    plans = {}
    for method in ("concat", *TUNED):
        weight = {} if method == "concat" else {"unimodal_weight": 4.0}
        task = Task(regime, 4000, tuple(sorted({**REGIMES[regime], **weight}.items())), method, method)
        config = configuration(task)
        plans[method] = trial_plan(config, after_warmup=True)
        assert {name: config.values()[name] for name in REGIMES[regime]} == REGIMES[regime]
        assert plans[method].method == method
        assert getattr(plans[method].options, "unimodal_weight", 4.0) == 4.0
    assert len({plan.epochs for plan in plans.values()}) == len({plan.learning_rate for plan in plans.values()}) == 1


def test_the_shuffled_row_differs_by_one_option():
    settings = (("corruption", 0.4), ("dataset", "digits"), ("shuffled", True), ("unimodal_weight", 4.0))
    options = trial_plan(configuration(Task("x", 1, settings, OURS, SHUFFLED)), after_warmup=True).options
    assert options == METHODS[OURS].Options(unimodal_weight=4.0, shuffled=True)


def test_warmups_are_shared_by_the_rows_of_a_seed():
    """They depend on the data and the seed alone, not on the method or its options."""
    rows = [
        Task("x", 4000, (("corruption", 0.4), ("dataset", "digits"), ("unimodal_weight", weight)), method, method)
        for method, weight in ((CONTROL, 1.0), (OURS, 4.0))
    ]
    assert len({regimes._warmup_task(task) for task in rows}) == 1
    assert regimes._warmup_task(rows[0]).row == ""


def test_all_regimes_are_those_that_can_be_run():
    assert regimes._named("all", with_grid=True) == list(REGIMES)
    assert regimes._named("all", with_grid=False) == [name for name in REGIMES if name.startswith("digits")]
    assert regimes._named("grid clean, digits clean", with_grid=False) == ["grid clean", "digits clean"]


def test_grid_needs_its_manifest_and_a_name_must_be_known():
    with pytest.raises(UserError, match="needs --grid PATH"):
        regimes.regime_settings("grid clean", "none", "auto")
    settings = regimes.regime_settings("grid clean", "x.csv", "auto")
    config = configuration(Task("grid clean", 4000, tuple(sorted(settings.items()))))
    assert (Path(config.data.dataset).name, config.corruption.corruption, config.input.frames_as) == (
        "x.csv",
        0.0,
        "channels",
    )
    with pytest.raises(UserError, match=r"regime 'digits' is not known; there are: digits 40 % corrupted"):
        regimes.regime_settings("digits", "none", "auto")


def test_a_weight_is_chosen_by_the_mean_over_the_tuning_seeds(monkeypatch):
    """One seed prefers 16 by a sample, the other prefers 4 clearly: 4 it is, for every tuned row and the shuffled one."""
    accuracy = {(4.0, 1000): 0.970, (16.0, 1000): 0.972, (4.0, 1001): 0.96, (16.0, 1001): 0.94}
    trained = []

    def run_all(tasks, processes):
        trained.extend(tasks)
        return {task: f"{dict(task.settings).get('unimodal_weight')}" for task in tasks}

    monkeypatch.setattr(regimes, "run_tasks", run_all)
    monkeypatch.setattr(
        regimes.campaign, "score_of", lambda row, digest, seed: accuracy.get((float(digest), seed), 0.9)
    )
    monkeypatch.setattr(
        regimes, "collect", lambda regime, settings: pd.DataFrame([{"row": row.split(": ")[1]} for row, _ in settings])
    )
    table = regimes.run_regime("x", {"dataset": "digits"}, [CONTROL, OURS], [7000, 7001], processes=1)
    assert set(table["unimodal_weight"]) == {4.0}
    tuning = [task for task in trained if not task.test]
    assert {task.seed for task in tuning} == set(regimes.TUNING_SEEDS) == {1000, 1001}
    assert len(tuning) == 2 * 4 * 2
    assert not {task.seed for task in trained if task.test} & set(regimes.TUNING_SEEDS)
