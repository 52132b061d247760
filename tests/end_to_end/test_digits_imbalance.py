"""What `digits` is made for: joint training lets one modality run ahead, and which one is a matter of difficulty."""

import pytest

from mm_balance.config import resolve
from mm_balance.data import load_digits
from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.workflow.stage import StagePlan, build_stage


@pytest.mark.slow
@pytest.mark.parametrize(("visual_difficulty", "low", "high"), [(1.0, 0.15, 1.0), (0.0, -1.0, -0.15)])
def test_mean_gap_after_joint_warm_up(visual_difficulty, low, high):
    """The default preset's warm-up (unimodal weight 0), seed 0."""
    config = resolve({"visual_difficulty": visual_difficulty, "device": "cpu"})
    assert config.warmup_unimodal_weight == 0.0
    plan = StagePlan(
        entry_point="warmup",
        method="concat_unimodal",
        settings={"unimodal_weight": 0.0},
        epochs=config.warmup_epochs,
        refit_every=None,
        mixture="two",
        learning_rate=config.learning_rate,
        select_best=False,
        anneal_rate=False,
    )
    stage = build_stage(config, load_digits(visual_difficulty=visual_difficulty), plan, title="warm-up")
    progress = loop.Progress()
    loop.fit(stage, progress, ListRecorder(), lambda: False)
    assert low < progress.points[-1].metrics["gap/mean"] < high
