"""Series over both stages on the parent, each step once."""

import pytest

from mm_balance.engine.recorder import MetricPoint
from mm_balance.tracking.lookup import open_run
from mm_balance.workflow.both_stages import BothStages

pytestmark = pytest.mark.usefixtures("store")


def point(step, value):
    return MetricPoint(step, step, {"val/accuracy": value, "val/accuracy_audio": value / 2, "train/loss": 1.0})


def test_a_step_is_sent_once_also_after_a_resume():
    parent = open_run("parent")
    series = BothStages(parent)
    series(point(1, 0.25))
    series.copy([point(1, 0.25), point(2, 0.5)])
    series.copy([point(1, 0.25), point(2, 0.5)])
    resumed = BothStages(parent)
    resumed.copy([point(1, 0.25), point(2, 0.5), point(3, 0.75)])
    assert parent.metric_series("both_stages/val_accuracy") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert parent.metric_series("both_stages/val_accuracy_audio") == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert set(parent.read().data.metrics) == {"both_stages/val_accuracy", "both_stages/val_accuracy_audio"}
    assert not resumed.mixed


def test_points_of_a_replaced_stage_are_noticed():
    parent = open_run("parent")
    BothStages(parent)(point(1, 0.25))
    series = BothStages(parent)
    series(point(1, 0.5))
    assert series.mixed
    assert parent.metric_series("both_stages/val_accuracy") == [(1, 0.25)]
