"""The leaderboard: the same epochs, rates and number of trials for every method, and the table that the command wrote."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import campaign
from analysis.campaign import never_stop
from analysis.leaderboard import (
    FIXED,
    MAIN_TEN,
    RANKED,
    SPACES,
    Task,
    collect,
    configuration,
    described,
    main,
    method_options,
    page,
    run_task,
    trials_table,
)
from analysis.tuning import Grid, Trial, Tuning
from mm_balance.config import options, resolve
from mm_balance.methods import METHODS, parse_options
from mm_balance.reproduction import pool
from mm_balance.tracking.query import find_runs
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import Clock
from mm_balance.workflow import stage as stages
from mm_balance.workflow.plans import train_plan, warmup_plan

ROOT = Path(__file__).parents[2]
RATES = Grid(options()["learning_rate"], (0.01, 0.02, 0.04))


class Built(Exception):
    """Raised in the place of training."""


def rates_of(method, data, monkeypatch, preset="auto"):
    """The learning rate in each epoch, warm-up included, from the stages that the tasks of the leaderboard build."""
    build, found = stages.build_stage, []

    def built(*arguments, **more):
        stage = build(*arguments, **more)
        before = len(found)
        found.extend(stage.learning_rate(Clock(before + epoch, epoch, stage.epochs)) for epoch in range(stage.epochs))
        raise Built

    options = method_options(method, Trial(0.04, SPACES[method].middle if method in SPACES else None))
    with monkeypatch.context() as patch:
        patch.setattr(stages, "build_stage", built)
        if METHODS[method].needs_warmup:
            with pytest.raises(Built):
                stages.train_stage(warmup_plan(configuration(Task(0, preset, 0.04))), data, None, never_stop)
        with pytest.raises(Built):
            stages.train_stage(
                train_plan(configuration(Task(0, preset, 0.04, method, options))), data, None, never_stop
            )
    return found


@pytest.mark.parametrize("method", RANKED)
def test_every_method_has_the_same_rate_in_every_epoch(method, tiny_data, monkeypatch):
    rates = rates_of(method, tiny_data, monkeypatch)
    preset = resolve({})
    assert preset.optimization.learning_rate_schedule == "cosine"
    assert rates == rates_of("concat", tiny_data, monkeypatch)
    assert len(rates) == preset.train.epochs == 18
    # Six epochs as a warm-up has them; then 1/12, 2/12, ... of the way down. Half-way, after 12 epochs, half the rate.
    assert rates[:7] == [0.04] * 7
    assert rates[12] == pytest.approx(0.02)
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert sum(rates) / 0.04 == pytest.approx(6 + 6.5)  # the mean of a falling cosine's steps is 1/2 and half a step


def test_a_warm_up_and_what_follows_it_are_looked_for_with_the_same_settings():
    """Trials differ in their rate, so each rate has a warm-up of its own."""
    warmup, stage2 = (
        configuration(task).values() for task in (Task(3, "auto", 0.01), Task(3, "auto", 0.01, "gap_mixture"))
    )
    for name in ("seed", "learning_rate", "learning_rate_hold", "warmup_epochs", "warmup_unimodal_weight"):
        assert warmup[name] == stage2[name]
    assert (stage2["learning_rate"], stage2["learning_rate_hold"]) == (0.01, warmup["warmup_epochs"])


def test_methods_with_the_same_quantity_have_the_same_grid():
    assert SPACES["concat_unimodal"] is SPACES["gap_mixture"] is SPACES["purified"]
    assert SPACES["ogm"] is SPACES["ogm_ge"] is SPACES["opm_ogm"]


@pytest.mark.parametrize("method", RANKED)
def test_trials_are_valid_and_different(method):
    space = SPACES.get(method)
    values = [None] if space is None else space.values
    parsed = [
        parse_options(method, METHODS[method].Options, method_options(method, Trial(0.02, value))) for value in values
    ]
    assert len({str(item) for item in parsed}) == len(values)
    if isinstance(space, Grid):
        assert [item[space.option.name] for item in parsed] == sorted(values)
        assert len(values) == 3


def test_what_is_fixed_is_not_searched():
    assert set(FIXED) <= set(SPACES) <= set(RANKED)


def made_up(scores_of_ogm=None):
    wide = Grid(SPACES["ogm"].option, (0.1, 0.3, 0.9))
    scores = {
        "concat": {Trial(0.02, None): 0.6, Trial(0.01, None): 0.7},
        "ogm": scores_of_ogm or {Trial(0.02, 0.3): 0.8, Trial(0.02, 0.1): 0.9},
        "greedy": {Trial(0.02, 0.01): 0.8, Trial(0.04, 0.01): 0.7},
    }
    return Tuning(scores, RATES, {"concat": None, "ogm": wide, "greedy": SPACES["greedy"]})


def frame(seeds=2):
    runs = {"concat": [0.5, 0.7], "ogm": [0.8, 0.9], "greedy": [0.4, 0.4]}
    return pd.DataFrame(
        {
            "method": method, "seed": seed, "accuracy": accuracies[seed], "accuracy_audio": 0.5, "accuracy_visual": 0.25,
            "imbalance_degree": 0.2, "epoch": 18, "held": 6, "seconds": 10.0, "cost": 1.0,
        }
        for method, accuracies in runs.items()
        for seed in range(seeds)
    )  # fmt: skip


def rows(lines):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


def test_the_table_is_the_best_first_with_spread_trials_and_edges():
    found = rows(page(frame(), made_up()))
    assert found[0] == [
        "`ogm`", "test, epoch 18", "85.0 ± 7.1", "50.0 ± 0.0", "25.0 ± 0.0", "0.20 ± 0.00", "10", "1.00", "2",
        "`learning_rate=0.02,alpha=0.1`", "`alpha`",
    ]  # fmt: skip
    assert found[1][:3] == ["`concat`", "test, epoch 18", "60.0 ± 14.1"]
    assert found[1][-3:] == ["2", "`learning_rate=0.01`", "`learning_rate`"]
    assert len({len(row) for row in found}) == 1


def test_branches_that_see_each_other_are_marked_and_explained():
    lines = page(frame(), made_up())
    (greedy,) = [row for row in rows(lines) if row[0] == "`greedy`"]
    assert greedy[2:6] == ["40.0 ± 0.0", "50.0 ± 0.0 †", "25.0 ± 0.0 †", "0.20 ± 0.00 †"]
    assert next(line for line in lines if line.startswith("† ")).startswith("† Branches that see each other")
    others = page(frame()[lambda runs: runs["method"] != "greedy"], made_up())
    assert not any("†" in line for line in others)


def test_one_seed_has_no_spread():
    found = rows(page(frame(seeds=1), made_up()))
    assert found[0][2] == "80.0 (one seed, no spread)"
    assert not any("±" in cell for row in found for cell in row)


def test_a_table_of_unequal_trials_or_schedules_is_not_written():
    with pytest.raises(ValueError, match="trials"):
        page(frame(), made_up({Trial(0.02, 0.3): 0.8}))
    for column in ("epoch", "held"):
        runs = frame()
        runs.loc[0, column] = 12
        with pytest.raises(ValueError, match=column):
            page(runs, made_up())


def test_every_trial_is_written_down():
    trials = trials_table(made_up())
    assert list(trials.columns) == ["method", "learning_rate", "options", "val_accuracy", "chosen"]
    assert len(trials) == 6
    assert list(trials[trials["chosen"]]["options"]) == ["", "alpha=0.1", "threshold=0.01"]


def test_the_written_table_has_all_methods_but_those_said_to_be_missing():
    written = (ROOT / "docs" / "results" / "leaderboard.md").read_text("utf-8")
    page = (ROOT / "docs" / "results" / "README.md").read_text("utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("Not in the leaderboard yet:"))
    missing = set(re.findall(r"`(\w+)`", line))
    assert sorted(row[0].strip("`") for row in rows(written.splitlines())) == sorted(set(RANKED) - missing)
    runs = pd.read_csv(ROOT / "docs" / "results" / "leaderboard.csv")
    assert (runs.groupby("method").size() == 3).all()
    assert set(runs["method"]) == set(RANKED) - missing


def asked(*more, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["leaderboard", *more])
    return described(campaign.start_campaign("x", "leaderboard", 0, first_seed=8000, methods="auto", grid="none"))


def test_on_grid_letters_the_main_ten_are_measured_with_the_preset_of_grid(store, monkeypatch):
    digits, grid = (asked(*more, monkeypatch=monkeypatch) for more in ([], ["--grid", "letters/manifest.csv"]))
    assert (digits.dataset, digits.preset, digits.methods, digits.seeds, digits.suffix) == (
        "digits",
        "auto",
        RANKED,
        3,
        "",
    )
    assert (grid.dataset, grid.methods, grid.seeds, grid.suffix) == ("letters/manifest.csv", MAIN_TEN, 5, "_grid")
    assert set(MAIN_TEN) <= set(RANKED)
    assert len(MAIN_TEN) == 10
    config = configuration(Task(0, grid.preset, 0.05, "concat", dataset=grid.dataset))
    assert (config.input.frames_as, config.train.epochs, config.optimization.learning_rate_hold) == ("channels", 24, 8)
    assert asked("--methods", "ogm,concat", "--seeds", "1", monkeypatch=monkeypatch).methods == ("ogm", "concat")


SMALL = "warmup_epochs: 1\nadaptive_epochs: 1\nepochs: 2\nrefit_every: 1\ntrain_fraction: 0.05\n"


@pytest.mark.verify
def test_the_command_goes_on_from_its_file_where_the_store_is_gone(store, monkeypatch, tmp_path, capsys):
    """The second call finds an empty store, trains nothing anew, and writes the same table."""
    preset = store / "small.yaml"
    preset.write_text(SMALL)
    monkeypatch.setattr(pool, "new_executor", lambda slot, stop: ThreadPoolExecutor(1))
    command = ["leaderboard", "--preset", str(preset), "--methods", "concat", "--seeds", "1", "--out"]
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "out")])
    main()
    first = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(first) == {"leaderboard.csv", "leaderboard.md", "leaderboard_runs.csv", "leaderboard_trials.csv"}
    trials = len(pd.read_csv(tmp_path / "out" / "leaderboard_trials.csv"))
    assert len(first["leaderboard_runs.csv"].splitlines()) == 1 + trials + 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'empty.db'}")
    capsys.readouterr()
    main()
    assert capsys.readouterr().out.count(": already there") == trials + 1
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == first


@pytest.mark.slow
@pytest.mark.verify
def test_runs_of_a_method_from_scratch_and_of_one_after_a_warm_up_log_the_same_rates(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "small")
    preset = store / "small.yaml"
    preset.write_text("warmup_epochs: 2\nadaptive_epochs: 2\nepochs: 4\nrefit_every: 1\ntrain_fraction: 0.05\n")
    warmup = Task(0, str(preset), 0.01)
    rows = [replace(warmup, method=name, row=name, test=True) for name in ("concat", "gap_mixture")]
    run_task(warmup)
    done = {task: run_task(task) for task in rows}
    assert [run_task(task).message for task in rows] == ["already there"] * 2
    frame = collect("small", {(task.row, 0): item.settings for task, item in done.items()})
    assert list(frame["method"]) == ["concat", "gap_mixture"]
    assert list(frame["epoch"]) == [4, 4]
    assert list(frame["held"]) == [2, 2]
    scratch, after = (TrackedRun(run).metric_series("learning_rate") for run in frame["run"])
    (first,) = [run.run_id for run in find_runs("small", {"mm.stage": "warmup"})]
    assert scratch == TrackedRun(first).metric_series("learning_rate") + after
    assert [rate for _, rate in scratch] == pytest.approx([0.01, 0.01, 0.01, 0.005])
