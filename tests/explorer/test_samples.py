"""The table of the explorer: suspicion worked out by hand, who was right, movement, and two runs side by side."""

import doctest
import math

import numpy as np
import pandas as pd
import pytest
import torch

from mm_balance.explorer import samples
from mm_balance.explorer.samples import (
    ALL,
    NONE,
    ExplorerSplit,
    compared,
    flow,
    right_by_class,
    sample_table,
    suspects,
    suspicion,
)
from mm_balance.functional.mixture import fit_mixture
from mm_balance.types import SplitPredictions

CLASSES = ("cat", "dog")


def e(*powers):
    return np.exp(-np.asarray(powers, dtype=float))


def test_the_example():
    assert doctest.testmod(samples) == doctest.TestResults(failed=0, attempted=2)


def test_suspicion_is_the_largest_excess_over_the_median_of_the_modality():
    """Losses: audio 0.1 0.1 0.1 4.1 3.1, visual 1 1 1 1 4. Visual is weak: a loss of 1 is usual for it."""
    found = suspicion({"audio": [e(0.1, 0.1, 0.1, 4.1, 3.1)], "visual": [e(1.0, 1.0, 1.0, 1.0, 4.0)]})
    assert found["suspicion"] == pytest.approx([0.0, 0.0, 0.0, 4.0, 3.0])
    assert list(found["suspect"][3:]) == ["audio", "audio"]
    # The last sample is in trouble in both: 3.0 and 3.0.
    assert list(found["doubted"]) == ["", "", "", "audio", ALL]
    assert found["why"][3] == "audio alone gives the class p 0.017, usually 0.905; visual 0.368"
    assert found["why"][4] == (
        "audio alone gives the class p 0.045, usually 0.905; visual alone gives the class p 0.018, usually 0.368"
    )
    assert list(found["why"][:3]) == ["", "", ""]


def test_one_modality_is_doubted_until_the_other_is_half_as_bad():
    audio = e(0.1, 0.1, 0.1, 0.1, 2.1, 2.1, 1.0)
    visual = e(0.1, 0.1, 0.1, 0.1, 1.0, 1.2, 0.1)
    doubted = suspicion({"audio": [audio], "visual": [visual]})["doubted"]
    assert list(doubted[4:]) == ["audio", ALL, ""]  # excess 2.0 and 0.9; 2.0 and 1.1; 0.9 alone, below the margin


def test_suspicion_remembers_earlier_refits():
    """A memorized sample: at the second refit nothing is left to see."""
    early, late = e(0.1, 0.1, 6.1), e(0.1, 0.1, 0.1)
    found = suspicion({"audio": [early, late], "visual": [e(0.1, 0.1, 0.1)] * 2})
    assert found["suspicion"][2] == pytest.approx(3.0)
    assert found["doubted"][2] == "audio"


def predictions(fused, audio, visual, labels):
    """Logits that give the first class these probabilities."""
    logits = {
        name: torch.stack([torch.tensor(p).log(), (1 - torch.tensor(p)).log()], dim=1)
        for name, p in (("fused", fused), ("audio", audio), ("visual", visual))
    }
    return SplitPredictions(
        torch.tensor(labels), logits["fused"], {"audio": logits["audio"], "visual": logits["visual"]}, "d"
    )


def split(name="train", refits=None, **facts):
    found = predictions([0.9, 0.6, 0.2], [0.9, 0.9, 0.1], [0.8, 0.1, 0.7], [0, 0, 0])
    return ExplorerSplit(name, ["s0", "s1", "s2"], found, refits or {}, facts)


def refit(audio, visual):
    audio, visual = np.asarray(audio, dtype=float), np.asarray(visual, dtype=float)
    return pd.DataFrame({"p_audio": audio, "p_visual": visual, "gap": audio - visual})


def test_the_table_has_predictions_gaps_and_what_moved():
    refits = {2: refit([0.5, 0.6, 0.3], [0.5, 0.1, 0.5]), 4: refit([0.9, 0.9, 0.1], [0.8, 0.1, 0.7])}
    table = sample_table([split(refits=refits, group=["x", "y", "x"])], CLASSES, None).set_index("sample")
    assert list(table.loc["s1", ["class", "predicted", "predicted_audio", "predicted_visual", "right", "group"]]) == [
        "cat", "cat", "cat", "dog", "audio", "y"
    ]  # fmt: skip
    assert dict(table["right"]) == {"s0": "all", "s1": "audio", "s2": "visual"}
    assert table.loc["s1", "gap"] == pytest.approx(0.8)
    assert table.loc["s1", "loss"] == pytest.approx(-math.log(0.6))
    assert table.loc["s1", "gap_by_refit"] == "0.500 0.800"
    assert table.loc["s1", "movement"] == pytest.approx(0.3)
    assert table.loc["s2", "loss_audio"] == pytest.approx(-(math.log(0.3) + math.log(0.1)) / 2)
    assert "posterior_imbalanced" not in table


def test_the_most_suspect_come_first_over_all_splits_and_the_posterior_is_that_of_training():
    gaps = torch.cat([torch.linspace(-0.05, 0.05, 50), torch.linspace(0.5, 1.0, 20)]).double()
    mixture = fit_mixture(gaps)
    table = sample_table([split(), split("test")], CLASSES, mixture)
    assert list(table["suspicion"]) == sorted(table["suspicion"], reverse=True)
    assert set(table["split"]) == {"train", "test"}
    expected = mixture.posterior_imbalanced(torch.tensor(table["gap"].to_numpy()))
    np.testing.assert_allclose(table["posterior_imbalanced"], expected)


def test_a_sample_that_a_method_held_out_has_the_numbers_of_the_final_network():
    table = sample_table([split(refits={2: refit([0.5, np.nan, 0.5], [0.5, np.nan, 0.5])})], CLASSES, None)
    held_out = table.set_index("sample").loc["s1"]
    assert held_out["loss_audio"] == pytest.approx(-math.log(0.9))
    assert held_out["gap_by_refit"] == "0.800"


def test_who_was_right_is_counted_per_class():
    table = pd.DataFrame({"class": ["cat", "cat", "dog"], "right": ["all", NONE, "audio"]})
    counts = right_by_class(table)
    assert list(counts) == ["all", "audio", NONE]
    assert counts.loc["cat"].tolist() == [1, 0, 1]
    assert counts.loc["all classes"].tolist() == [1, 1, 1]


def test_suspects_are_those_that_are_doubted():
    table = sample_table([split()], CLASSES, None)
    listed = suspects(table)
    assert list(listed) == ["split", "sample", "class", "doubted", "suspicion", "why"]
    assert set(listed["sample"]) == set(table.loc[table["doubted"] != "", "sample"])


def test_suspects_of_training_come_first_and_say_what_was_planted():
    parts = [
        split("test", corrupted=["", "", ""]),
        split("val", corrupted=["", "", ""]),
        split(corrupted=["", "", "audio"]),
    ]
    table = sample_table(parts, CLASSES, None)
    listed = suspects(table)
    assert list(listed) == ["split", "sample", "class", "doubted", "corrupted", "suspicion", "why"]
    assert list(listed["split"].drop_duplicates()) == ["train", "val", "test"]
    for _, part in listed.groupby("split"):
        assert list(part["suspicion"]) == sorted(part["suspicion"], reverse=True)
    assert list(listed.loc[listed["corrupted"] != "", ["split", "sample"]].itertuples(index=False, name=None)) == [
        ("train", "s2")
    ]


def test_two_runs_are_compared_on_the_same_samples():
    table = sample_table([split()], CLASSES, None)
    other = table.assign(gap=table["gap"] - 0.25)[table["sample"] != "s2"]
    both = compared(table, other).set_index("sample")
    assert both.loc["s0", "gap_change"] == pytest.approx(0.25)
    assert math.isnan(both.loc["s2", "gap_change"])


def test_flow_counts_who_moves_between_the_components():
    posteriors = {3: np.array([0.9, 0.9, 0.1, 0.1]), 1: np.array([0.1, 0.9, 0.1, 0.9])}
    ((epoch, counts),) = flow(posteriors)
    assert epoch == 3
    assert counts.tolist() == [[1, 1], [1, 1]]
    assert flow({1: posteriors[1]}) == []
