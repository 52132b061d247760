"""What `digits` is made for: joint training lets one modality run ahead, and which one is a matter of difficulty."""

import pytest

from mm_balance.config import resolve
from mm_balance.data import load_digits
from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.workflow.build import build_stage
from mm_balance.workflow.plans import warmup_plan

WHOLE = pytest.param(None, 1.0, marks=pytest.mark.verify)


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "fraction"), [(3, 0.3), WHOLE])
@pytest.mark.parametrize(("visual_difficulty", "low", "high"), [(1.0, 0.15, 1.0), (0.0, -1.0, -0.15)])
def test_mean_gap_after_joint_warm_up(visual_difficulty, low, high, epochs, fraction):
    """The default preset's warm-up (unimodal weight 0), seed 0; in small with half of its epochs on a part of the data."""
    shorter = {} if epochs is None else {"warmup_epochs": epochs, "train_fraction": fraction}
    config = resolve({"visual_difficulty": visual_difficulty, "device": "cpu", **shorter})
    assert config.warmup.warmup_unimodal_weight == 0.0
    data = load_digits(visual_difficulty=visual_difficulty).with_train_fraction(fraction, seed=0)
    stage = build_stage(warmup_plan(config), data, title="warm-up")
    progress = loop.Progress()
    loop.fit(stage, progress, ListRecorder(), lambda: False)
    assert low < progress.points[-1].metrics["gap/mean"] < high
