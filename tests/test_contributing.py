"""The example method of CONTRIBUTING.md is complete: it runs as it stands, and trains like any other."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_data
from engine.test_loop import CPU, make_stage

from mm_balance import METHODS
from mm_balance.data import BatchLoader
from mm_balance.types import Clock

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture
def focal(monkeypatch):
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1)
    module = types.ModuleType("focal_of_the_guide")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "focal", module.Focal)
    return module


def totals(method, **settings):
    stage = make_stage(method, data=make_tiny_data(), **settings)
    batches = list(BatchLoader(stage.data.splits["train"], 8, seed=0).epoch(0, CPU))
    return [
        float(stage.method.update(stage.model, batch, stage.stepper, Clock(0, 0, 1)).total.detach())
        for batch in batches
    ]


def test_without_focus_it_is_joint_training_and_with_it_the_loss_is_smaller(focal, monkeypatch):
    import engine.test_loop as helper

    build = helper.build_method
    monkeypatch.setattr(
        helper, "build_method", lambda name, settings, *rest: build(name, settings | {"focus": focus}, *rest)
    )
    focus = 0.0
    assert totals("focal") == pytest.approx(totals("concat"), rel=1e-6)
    focus = 2.0
    assert torch.tensor(totals("focal"))[0] < torch.tensor(totals("concat"))[0]
