"""A stage as a trial of a study, and what is called with its points: two things, neither of which decides the other."""

import pytest

from mm_balance import names
from mm_balance.config import resolve
from mm_balance.folders import work_folder
from mm_balance.testing import tiny_data
from mm_balance.tracking.lookup import open_run
from mm_balance.workflow.plans import train_plan
from mm_balance.workflow.stage import train_stage

pytestmark = pytest.mark.usefixtures("store")


@pytest.mark.parametrize("as_trial", [False, True])
@pytest.mark.parametrize("listens", [False, True])
def test_a_trial_keeps_its_checkpoints_here_and_any_stage_may_call_with_its_points(as_trial, listens):
    config = resolve({"preset": "quick", "method": "concat", "epochs": 2, "batch_size": 8, "device": "cpu"})
    run, steps = open_run("a stage"), []
    listener = {"on_point": lambda point: steps.append(point.step)} if listens else {}
    train_stage(train_plan(config), tiny_data(), run, lambda: False, as_trial=as_trial, **listener)
    assert run.read().data.tags["mm.stage"] == ("trial" if as_trial else "train")
    assert bool(run.artifact_names(names.CHECKPOINT_FOLDER)) is not as_trial
    assert (work_folder(run.run_id) / names.CHECKPOINT_LAST).is_file()
    assert sorted(set(steps)) == ([1, 2] if listens else [])
