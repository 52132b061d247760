"""The example method of CONTRIBUTING.md is complete: it runs as it stands, and keeps to the public suite."""

import re
import sys
import types
from pathlib import Path

import torch

from mm_balance.testing import MethodConformance, planned, tiny_stage, update
from tests.helpers.stages import make_stage

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")
METHOD, TEST = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

guide = types.ModuleType("method_of_the_guide")
sys.modules[guide.__name__] = guide  # dataclasses look their module up
exec(compile(METHOD, "CONTRIBUTING.md", "exec"), guide.__dict__)
exec(compile(TEST, "CONTRIBUTING.md", "exec"), guide.__dict__)
TestTheGuide = guide.TestGuideFocal


def test_the_guide_uses_the_public_suite():
    assert issubclass(TestTheGuide, MethodConformance)


def totals(stage):
    _, batches = planned(stage)
    return torch.tensor([float(update(stage, batch).total.detach()) for batch in batches])


def test_without_focus_it_is_joint_training_and_with_it_the_loss_is_smaller():
    joint = totals(make_stage("concat"))
    torch.testing.assert_close(totals(tiny_stage(guide.GuideFocal, {"focus": 0.0})), joint)
    assert totals(tiny_stage(guide.GuideFocal, {"focus": 2.0}))[0] < joint[0]
