"""Tables and verdicts, on frames small enough to work out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import tables
from analysis.claims import FULL, Finding, claims, claims_table, family_size, judged
from analysis.first_result import ROWS, TUNED, UNIMODAL_WEIGHT, tuning_line
from analysis.tables import (
    at_refits,
    detection,
    detection_table,
    difference,
    gap_statistics,
    result_table,
    spread,
)
from analysis.tuning import Grid, Trial, Tuning
from mm_balance.config import options
from mm_balance.methods import METHODS
from mm_balance.tracking.query import RunRecord
from mm_balance.tracking.runs import TrackedRun

STATISTICS = {
    "gmm/imbalanced_weight": (0.4, 0.3),
    "gmm/imbalanced_mean": (-0.8, 0.1),
    "gmm/density_at_zero": (1.0, 20.0),
}
LOSS = "-log p fused"
SCORES = {
    "first": {LOSS: 0.8, "posterior two": 0.4, "abs(gap)": 0.7},
    "training": {LOSS: 0.8, "posterior two": 0.6, "abs(gap)": 0.9},
    "last": {LOSS: 0.8, "posterior two": 0.9, "abs(gap)": 0.95},
}
"""As the review found them: where it trains, the posterior is worse than the loss; after the last epoch it is better."""


def make_frame(fused):
    """Three seeds per row; the i-th seed adds i hundredths."""
    lines = []
    for row, value in fused.items():
        for seed in range(3):
            noise = 0.001 * seed
            line = {"row": row, "seed": seed, "accuracy": value + 0.01 * seed + noise * (row == FULL)}
            line |= {"accuracy_audio": 0.8, "accuracy_visual": value - 0.2 + noise}
            for name, (first, last) in STATISTICS.items():
                line |= {f"first {name}": first, f"last {name}": last + noise}
            line |= {"warm-up val/accuracy_audio": 0.9, "warm-up val/accuracy_visual": 0.3 + noise}
            line |= {"final val/accuracy_audio": 0.9, "final val/accuracy_visual": 0.8}
            line |= {"epoch": 18, "refits that train": "6, 9, 12, 15"}
            for when, found in SCORES.items():
                line |= {f"{when} auc all {name}": value + noise * (name != LOSS) for name, value in found.items()}
            lines.append(line)
    return pd.DataFrame(lines)


FRAME = make_frame({"joint": 0.6, "control": 0.75, FULL: 0.75, "without alpha (gap)": 0.9})


FRAME_ALL = FRAME.assign(
    **{
        f"{when} auc {which} {score}": FRAME.get(f"{when} auc {which} {score}", 0.5)
        for when in SCORES
        for which in ("all", "audio", "visual")
        for score in ("posterior two", "posterior two_absolute", "posterior three", "abs(gap)", LOSS)
    },
    **{f"{when} gap/{name}": 0.1 for when in ("first", "last") for name in ("mean", "mean_abs")},
)


def verdicts(frame):
    return {item.claim: item for item in claims(frame)}


def test_verdicts_need_the_adjusted_p_value():
    found = verdicts(FRAME)
    assert found["The adaptive loss beats joint training (fused)"].verdict == "holds"
    assert found["The gap term helps (alpha)"].verdict == "does not hold: the opposite"
    assert found["(ours) It beats joint training + unimodal losses (fused)"].verdict == "not shown"
    assert found["The shift term helps (beta)"].verdict == "not tested here"
    assert found["Joint training is worse than the best single modality"].verdict == "not tested here"


def test_an_interval_without_zero_among_many_tests_shows_nothing():
    """Two of four are kept at .05 each for itself; together .03 * 3 = .09 is not. By hand: .001 * 4, .03 * 3, .4 * 2, .8."""
    tested = [Finding(f"claim {p}", "test", "", mean=1.0, p=p) for p in (0.03, 0.8, 0.001, 0.4)]
    found = judged([Finding("not tested", "", ""), *tested])
    assert [item.verdict for item in found] == ["not tested here", "not shown", "not shown", "holds", "not shown"]
    assert [item.adjusted for item in found] == [
        None,
        pytest.approx(0.09),
        pytest.approx(0.8),
        pytest.approx(0.004),
        pytest.approx(0.8),
    ]
    assert family_size(found) == 4
    table = claims_table(found)
    assert "p adjusted for 4 tests" in table[0]
    assert table[3] == "| claim 0.03 | **not shown** | test |  | 0.090 |"


def test_a_plain_interval_above_zero_is_not_enough():
    """Differences 1, 1.5, 2 points: mean 1.5, sd .5: half width 4.3027 * .5 / sqrt 3 = 1.24; t^2 = 27, p = 1 - sqrt(27 / 29)."""
    frame = FRAME.copy()
    control = frame.loc[frame["row"] == "control", "accuracy_visual"].to_numpy()
    frame.loc[frame["row"] == FULL, "accuracy_visual"] = control + np.array([0.01, 0.015, 0.02])
    found = verdicts(frame)["(ours) The starved modality gains over the control"]
    assert found.number == "+1.50 points [+0.26, +2.74], n = 3"
    assert found.p == pytest.approx(1 - math.sqrt(27 / 29))
    assert found.adjusted >= 2 * found.p > 0.05
    assert found.verdict == "not shown"


def test_all_tested_rows_are_one_family_and_say_where_they_were_measured():
    found = claims(FRAME)
    tested = [item for item in found if item.p is not None]
    assert family_size(found) == len(tested) > 10
    assert all(item.measured_at for item in tested)
    assert all(item.adjusted >= item.p for item in tested)
    smallest = min(tested, key=lambda item: item.p)
    assert smallest.adjusted == pytest.approx(min(1, smallest.p * len(tested)))


def test_numbers_of_a_verdict_by_hand():
    """Differences 15.0, 15.1, 15.2 points: mean 15.1, t(2) = 4.3027, sd 0.1: half width 4.3027 * 0.1 / sqrt 3 = 0.25."""
    number = verdicts(FRAME)["The adaptive loss beats joint training (fused)"].number
    assert number == "+15.10 points [+14.85, +15.35], n = 3"


def test_a_mean_moves_to_zero_by_its_absolute_value():
    found = verdicts(FRAME)[f"The imbalanced mean moves to zero (absolute value falls): {FULL}"]
    assert found.verdict == "holds"
    assert found.number.startswith("0.80 -> 0.10")


def test_detection_is_judged_at_the_refits_that_train():
    found = {claim: item for claim, item in verdicts(FRAME).items() if "planted corruption" in claim}
    posterior, gap = found.values()
    assert (posterior.verdict, posterior.number) == ("does not hold: the opposite", "-0.20 AUC [-0.20, -0.20], n = 3")
    assert (gap.verdict, gap.number) == ("holds", "+0.10 AUC [+0.10, +0.10], n = 3")
    assert {item.measured_at for item in found.values()} == {"train, mean of the training refits"}


def test_tables_are_markdown_of_equal_width():
    for table in (
        result_table(FRAME, ["joint", "control", FULL, "never run"]),
        claims_table(claims(FRAME)),
        detection_table(FRAME_ALL, [FULL]),
        gap_statistics(FRAME_ALL, [FULL, "never run"]),
    ):
        assert len({line.count(" | ") for line in table if "---" not in line}) == 1
    assert len(result_table(FRAME, ["joint", "never run"])) == 3
    assert result_table(FRAME, ["joint"])[2].startswith("| joint | test, epoch 18 | 3 | 61.0 ± 1.0 |")
    assert gap_statistics(FRAME_ALL, [FULL])[2].startswith(f"| {FULL} | train, epochs 6 -> 18 | ")
    assert spread([0.5, 0.7], 100) == "60.0 ± 14.1"
    assert difference(FRAME, "joint", "joint", "accuracy") == ""


def test_one_seed_has_no_spread():
    assert spread([0.5], 100) == "50.0 (one seed, no spread)"


def test_the_detection_table_tells_refits_that_train_from_the_one_that_does_not():
    table = detection_table(FRAME_ALL, [FULL])[2:]
    assert len(table) == 9
    told = [line.split(" | ") for line in table]
    assert [cells[1] for cells in told[::3]] == [
        "train, epoch 6 (the warm-up's refit)",
        "train, mean of epochs 6, 9, 12, 15 (training refits)",
        "train, epoch 18 (not used in training)",
    ]
    assert [cells[2] for cells in told[:3]] == ["all", "audio", "visual"]
    assert [cells[5] for cells in told[::3]] == ["0.401 ± 0.001", "0.601 ± 0.001", "0.901 ± 0.001"]


def test_the_refits_that_train_are_all_but_the_one_after_the_last_epoch():
    found = {6: {"auc": 0.39}, 9: {"auc": 0.482}, 12: {"auc": 0.815}, 15: {"auc": 0.88}, 18: {"auc": 0.894}}
    line = at_refits(found, 18)
    assert line == {
        "refits that train": "6, 9, 12, 15",
        "first auc": 0.39,
        "training auc": pytest.approx(0.64175),  # (.39 + .482 + .815 + .88) / 4
        "last auc": 0.894,
    }


def test_detection_by_hand():
    gaps = [0.0] * 6 + [0.01 * step for step in range(-3, 3)] + [-0.9, 0.8]
    corrupted = [""] * 12 + ["audio", "visual"]
    p_fused = [0.9] * 12 + [0.95, 0.1]
    found = detection(pd.DataFrame({"gap": gaps, "corrupted": corrupted, "p_fused": p_fused}))
    assert found["auc all abs(gap)"] == 1.0
    assert found["auc audio signed gap"] == 1.0
    assert found["auc visual signed gap"] == 1.0
    assert found["auc all -log p fused"] == pytest.approx(0.5)  # below all clean ones, and above all of them
    assert found["auc audio -log p fused"] == 0.0
    assert torch.isfinite(torch.tensor(list(found.values()))).all()


def test_rows_differ_from_the_defaults_in_known_parameters_only():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.method in METHODS
        assert set(row.settings) <= set(options())
    assert {"concat_unimodal", "gap_mixture"} == set(TUNED.values())
    assert UNIMODAL_WEIGHT.option.name in options()


def test_collect_reads_the_table_of_every_refit(monkeypatch, store):
    """The last refit finds the corruption, the others do not: one number for all would be either claim."""
    metrics = {f"test/{name}": 0.5 for name in tables.ACCURACIES} | {"selection/last_epoch": 4.0, "truth/auc_gap": 0.9}
    metrics |= {f"val/{name}": 0.5 for name in tables.ACCURACIES}
    tags = {"mm.row": FULL, "mm.seed": "0", "mm.warmup_run": "w", "mm.evaluated_run": "r", "mm.settings": "s"}
    records = [RunRecord(name, name, "FINISHED", metrics, {}, tags) for name in "rw"]

    def gaps(run, epoch):
        corrupted = ["audio", "visual"] + [""] * 18
        found = np.linspace(-0.1, 0.1, 20)
        found[:2] = (-0.9, 0.9) if epoch == 4 else (0.001, -0.001)
        return pd.DataFrame({"gap": found, "corrupted": corrupted, "p_fused": 0.5})

    monkeypatch.setattr(tables, "find_runs", lambda experiment, tags=None: records[:1] if tags is None else records)
    monkeypatch.setattr(tables, "read_run", lambda run_id: records[1])
    monkeypatch.setattr(TrackedRun, "metric_series", lambda run, name: [(2, 0.1), (4, 0.2)])
    monkeypatch.setattr(tables, "refit_epochs", lambda run: [2, 3, 4])
    monkeypatch.setattr(tables, "read_gap_table", gaps)
    (line,) = tables.collect("any", {(FULL, 0): "s"}).to_dict("records")
    assert (line["refits that train"], line["epoch"]) == ("2, 3", 4)
    assert (line["first auc all abs(gap)"], line["training auc all abs(gap)"], line["last auc all abs(gap)"]) == (
        0,
        0,
        1,
    )
    assert line["last truth/auc_gap"] == 0.9


def test_the_page_says_how_the_tuned_rows_were_chosen_and_what_lies_at_an_edge():
    scores = {weight: {Trial(0.02, 1.0): 0.5, Trial(0.02, weight): 0.6} for weight in (0.7, 2.0)}
    tuning = Tuning(
        {"concat_unimodal": scores[0.7], "gap_mixture": scores[2.0]},
        Grid(options()["learning_rate"], (0.02,)),
        dict.fromkeys(TUNED.values(), UNIMODAL_WEIGHT),
    )
    line = tuning_line(tuning)
    assert "2 trials each" in line
    assert (
        "*control, tuned* `unimodal_weight=0.7`, *adaptive, tuned* `unimodal_weight=2.0` (at an edge of the grid)"
        in line
    )
