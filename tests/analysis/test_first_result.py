"""Tables and verdicts, on frames small enough to work out by hand."""

import pandas as pd
import pytest
import torch

from analysis.claims import FULL, claims, claims_table
from analysis.first_result import ROWS, TUNED, TUNING
from analysis.tables import detection, difference, result_table, spread
from mm_balance.config import options
from mm_balance.methods import METHODS

STATISTICS = {
    "gmm/imbalanced_weight": (0.4, 0.3),
    "gmm/imbalanced_mean": (-0.8, 0.1),
    "gmm/density_at_zero": (1.0, 20.0),
}


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
            line |= {"auc all -log p fused": 0.8, "auc all posterior two": 0.7 + noise, "auc all abs(gap)": 0.9 + noise}
            lines.append(line)
    return pd.DataFrame(lines)


FRAME = make_frame({"joint": 0.6, "control": 0.75, FULL: 0.75, "without alpha (gap)": 0.9})


def verdicts(frame):
    return {item.claim: item for item in claims(frame)}


def test_verdicts_follow_the_interval():
    found = verdicts(FRAME)
    assert found["The adaptive loss beats joint training (fused)"].verdict == "holds"
    assert found["The gap term helps (alpha)"].verdict == "does not hold: the opposite"
    assert found["(ours) It beats joint training + unimodal losses (fused)"].verdict.startswith("not shown")
    assert found["The shift term helps (beta)"].verdict == "not tested here"
    assert found["Joint training is worse than the best single modality"].verdict == "not tested here"


def test_numbers_of_a_verdict_by_hand():
    """Differences 15.0, 15.1, 15.2 points: mean 15.1, t(2) = 4.3027, sd 0.1: half width 4.3027 * 0.1 / sqrt 3 = 0.25."""
    number = verdicts(FRAME)["The adaptive loss beats joint training (fused)"].number
    assert number == "+15.10 points [+14.85, +15.35], n = 3"


def test_a_mean_moves_to_zero_by_its_absolute_value():
    found = verdicts(FRAME)[f"The imbalanced mean moves to zero (absolute value falls): {FULL}"]
    assert found.verdict == "holds"
    assert found.number.startswith("0.80 -> 0.10")


def test_detection_verdicts_have_their_own_direction():
    found = {claim: item.verdict for claim, item in verdicts(FRAME).items() if "planted corruption" in claim}
    assert sorted(found.values()) == ["does not hold: the opposite", "holds"]


def test_tables_are_markdown_of_equal_width():
    for table in (result_table(FRAME, ["joint", "control", FULL, "never run"]), claims_table(claims(FRAME))):
        assert len({line.count(" | ") for line in table if "---" not in line}) == 1
    assert len(result_table(FRAME, ["joint", "never run"])) == 3
    assert spread([0.5, 0.7], 100) == "60.0 ± 14.1"
    assert difference(FRAME, "joint", "joint", "accuracy") == ""


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
    assert all(set(settings) <= set(options()) for settings in TUNING.values())
