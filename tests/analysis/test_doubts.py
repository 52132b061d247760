"""The trials behind the rules of `posterior_discount`: on validation, one rule at a time."""

from dataclasses import replace

import pandas as pd

from analysis import doubts, regimes
from analysis.doubts import CONTROL, DEFAULT, NO_MARGIN, OURS, ROWS, page, tasks_of
from mm_balance.methods import METHODS
from mm_balance.workflow.plans import trial_plan


def test_rows_differ_in_their_rules_alone():
    tasks = tasks_of("digits 10 % corrupted", regimes.regime_settings("digits 10 % corrupted", "none", "auto"))
    plans = {task.label: trial_plan(regimes.configuration(task), after_warmup=True) for task in tasks}
    default = METHODS[OURS].Options()
    assert plans[DEFAULT].options == default
    assert (default.margin, default.persistence, default.start_epoch) == (1.0, 1, 3)
    assert plans[NO_MARGIN].options == replace(default, margin=0.0)
    assert {plan.options.unimodal_weight for plan in plans.values()} == {4.0}
    assert {plan.epochs for plan in plans.values()} == {12}
    assert {plan.method for plan in plans.values()} == {CONTROL, OURS, "loss_mixture"}


def test_no_test_data_are_read_and_no_seed_is_one_of_the_tables():
    for regime in doubts.REGIMES:
        tasks = tasks_of(regime, {"dataset": "digits"})
        assert len(tasks) == len(ROWS) * len(doubts.SEEDS[regime.split()[0]])
        assert not any(task.test for task in tasks)
        assert max(task.seed for task in tasks) < regimes.TUNING_SEEDS[0]


def line(regime, row, seed, accuracy, **more):
    empty = dict.fromkeys(
        (f"{name}_{modality}" for name in ("doubt", "clean", "corrupted") for modality in doubts.MODALITIES),
        float("nan"),
    )
    return {"regime": regime, "row": row, "seed": seed, "accuracy": accuracy, "run": "r", **empty, **more}


def test_the_page_pairs_by_seed_and_tells_doubts_of_clean_and_broken_samples():
    found = dict.fromkeys(("doubt_audio", "doubt_visual"), 0.2)
    planted = {"clean_audio": 0.02, "corrupted_audio": 0.86, "clean_visual": 0.1, "corrupted_visual": 0.9}
    frame = pd.DataFrame(
        [
            *(line("digits 40 % corrupted", CONTROL, seed, 0.9 + seed / 100) for seed in range(2)),
            *(
                line("digits 40 % corrupted", NO_MARGIN, seed, 0.92 + seed / 100, **found, **planted)
                for seed in range(2)
            ),
            line("digits clean", NO_MARGIN, 0, 0.95, **found),
        ]
    )
    text = "\n".join(page(frame))
    assert f"| {CONTROL} | 2 | 90.5 ± 0.7 |  |  |  |" in text
    assert f"| {NO_MARGIN} | 2 | 92.5 ± 0.7 | +2.0 [+2.0, +2.0] | 0.020 -> 0.86 | 0.100 -> 0.90 |" in text
    assert f"| {NO_MARGIN} | 1 | 95.0 (one seed, no spread) |  | 0.200 | 0.200 |" in text
