"""Finding planted corruption: scores worked out by hand, the modality named, and cleanlab on the same probabilities."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import detection
from analysis.detection import (
    KINDS,
    Task,
    _settings,
    _warmup_task,
    configuration,
    cross_table,
    explorer_score,
    page,
    scores,
    write,
)
from mm_balance.types import SplitPredictions
from mm_balance.workflow.plans import trial_plan

TABLE = pd.DataFrame(
    {
        #           audio broken  visual broken  hard for both  clean ...
        "p_audio": [0.01, 0.90, 0.20, 0.90, 0.80, 0.90, 0.85, 0.95, 0.90, 0.92],
        "p_visual": [0.80, 0.05, 0.20, 0.85, 0.90, 0.80, 0.80, 0.90, 0.95, 0.90],
        "p_fused": [0.50, 0.60, 0.10, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95],
        "corrupted": ["audio", "visual", "", "", "", "", "", "", "", ""],
    }
)


def test_scores_by_hand():
    found = scores(TABLE)
    assert found["abs(gap)"] == {"auc": 1.0, "precision": 1.0}
    # The hard sample has the largest fused loss: of 2 x 8 pairs 2 are the wrong way round, and one of the two most suspect is it.
    assert found["-log p fused"] == {"auc": 14 / 16, "precision": 0.5}
    assert found["log lag of the worst modality"] == {"auc": 1.0, "precision": 1.0, "named": 1.0}
    # Losses of the worst modality: 4.6, 3.0, then 1.6 of the hard one.
    assert found["-log p of the worst modality"] == {"auc": 1.0, "precision": 1.0, "named": 1.0}
    assert set(found) == {
        "abs(gap)", "posterior two", "posterior two_absolute", "-log p fused", "-log p of the worst modality",
        "log lag of the worst modality",
    }  # fmt: skip


def test_naming_counts_samples_with_a_corrupted_modality_only():
    wrong = TABLE.assign(corrupted=["visual", "visual", *[""] * 8])
    assert scores(wrong)["log lag of the worst modality"]["named"] == 0.5
    labels = TABLE.assign(corrupted=["label", "label", *[""] * 8])
    assert math.isnan(scores(labels)["log lag of the worst modality"]["named"])
    assert scores(labels)["abs(gap)"]["auc"] == 1.0


def test_three_modalities_lag_behind_the_best_other():
    table = TABLE.assign(p_depth=[0.9, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.02])
    table.loc[9, "corrupted"] = "depth"
    assert scores(table)["log lag of the worst modality"] == {"auc": 1.0, "precision": 1.0, "named": 1.0}


def test_cleanlab_sees_the_same_probabilities():
    logits = torch.randn(3, 40, 4, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(40) % 4
    predictions = SplitPredictions(labels, logits[2], {"audio": logits[0], "visual": logits[1]}, "digest")
    table = cross_table(predictions, ["audio", *[""] * 39])
    for number, name in enumerate(("audio", "visual", "fused")):
        probabilities = logits[number].softmax(dim=1)
        own = probabilities[torch.arange(40), labels]
        best_other = probabilities.scatter(1, labels[:, None], -1).amax(dim=1)
        np.testing.assert_allclose(table[f"p_{name}"], own)
        np.testing.assert_allclose(table[f"quality_{name}"], (own - best_other + 1) / 2, rtol=1e-6)
    assert {"cleanlab fused", "cleanlab of the worst modality"} <= set(scores(table))


def test_the_suspicion_of_the_explorer_sees_all_tables_at_once(monkeypatch):
    """At the second refit both broken clips are memorized; together with the first they are still the most suspect."""
    memorized = TABLE.assign(p_audio=0.99, p_visual=0.99)
    monkeypatch.setattr(detection, "MOST_SUSPECT", 3)
    found = explorer_score([TABLE, memorized])
    assert found == {"auc": 1.0, "precision": 1.0, "named": 1.0, "precision50": pytest.approx(2 / 3), "named50": 1.0}
    labels = TABLE.assign(corrupted=["label", *[""] * 9])
    assert math.isnan(explorer_score([labels])["named"])


def case(data, kind, seeds=2):
    lines = [
        {"data": data, "kind": kind, "seed": seed, "source": "refit", "epoch": epoch, "score": "abs(gap)", "auc": auc,
         "precision": 0.5, "named": math.nan, "precision50": math.nan, "named50": math.nan}
        for seed in range(seeds)
        for epoch, auc in ((6, 0.6 + 0.1 * seed), (9, 0.8 + 0.1 * seed))
    ]  # fmt: skip
    return pd.DataFrame(lines)


def test_the_page_averages_refits_first_and_then_seeds():
    text = "\n".join(page(case("digits", "noise")))
    assert "## digits, noise" in text
    assert "| refit | abs(gap) | 2 | 0.75 ± 0.07 | 0.50 ± 0.00 |  |  |  |" in text


def test_a_call_replaces_its_cases_and_keeps_the_others(tmp_path):
    write(case("digits", "noise"), tmp_path)
    write(case("digits", "blank"), tmp_path)
    write(case("digits", "noise", seeds=3), tmp_path)
    table = pd.read_csv(tmp_path / "detection.csv")
    assert table.groupby("kind").size().to_dict() == {"blank": 4, "noise": 6}


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_the_control_on_that_corruption(kind, tmp_path):
    settings = _settings("digits", kind, "none", "auto")
    tasks = {
        source: Task("digits", kind, 1, settings, tmp_path, source) for source in ("refit", "running", "cross-fitted")
    }
    plans = {source: trial_plan(configuration(task), after_warmup=True) for source, task in tasks.items()}
    assert {plan.method for plan in plans.values()} == {"concat_unimodal"}
    assert [plans[source].gap_source for source in tasks] == ["refit", "running", "refit"]
    assert configuration(tasks["refit"]).corruption.corruption_kind == kind
    assert len({_warmup_task(task) for task in tasks.values()}) == 1
    config = configuration(Task("grid", kind, 1, _settings("grid", kind, "x.csv", "auto"), tmp_path, "refit"))
    assert (Path(config.data.dataset).name, config.input.frames_as, config.corruption.corruption) == (
        "x.csv",
        "channels",
        0.2,
    )
