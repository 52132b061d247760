"""How long a plan takes."""

import pytest

from mm_balance.reproduction.command import duration
from mm_balance.reproduction.estimate import (
    OVERHEAD_SECONDS,
    Estimate,
    Speed,
    measure,
    relative_cost,
    settings_key,
    work,
)
from mm_balance.reproduction.plan import base_settings, jobs, with_warmups
from mm_balance.reproduction.tables import tables_of

SPEED = Speed(0.1, "cpu", 3200.0, 320)


@pytest.fixture(scope="module")
def rows():
    return {job.label: job for job in with_warmups(jobs(tables_of("digits"), base_settings("digits"), [0]))}


def test_work_is_steps_validation_and_refits(rows):
    joint = rows["methods: concat"]
    # 18 epochs of 100 steps; 10 batches of validation in each, forward only; six refits, forward only.
    assert work(joint, 3200.0, 320) == pytest.approx(18 * (100 + 10 / 3) + 6 * 100 / 3)


def test_a_second_stage_leaves_out_the_warm_up_and_cross_fitting_trains_copies(rows):
    control = rows["detection: mixed: concat_unimodal"]
    assert work(control, 3200.0, 320) == pytest.approx(12 * (100 + 10 / 3) + 4 * 100 / 3)
    copies = rows["detection: mixed: concat_unimodal, cross_fitted"]
    # Three quarters of the samples, four copies: after 6 and after 18 epochs; one refit instead of four.
    assert work(copies, 3200.0, 320) - work(control, 3200.0, 320) == pytest.approx(3 * (6 + 18) * 100 - 3 * 100 / 3)


def test_methods_cost_what_they_declare_or_what_was_measured(rows):
    assert relative_cost(rows["methods: concat"]) == 1.0
    assert relative_cost(rows["methods: agm"]) == 3.0
    assert relative_cost(rows["methods: audio_only"]) == 0.5
    assert relative_cost(rows["methods: g_blending"]) == 3.5


def test_processes_share_the_work_but_no_run(rows):
    joint = rows["methods: concat"]
    estimate = Estimate(SPEED)
    alone = estimate.of(joint)
    assert alone == pytest.approx(OVERHEAD_SECONDS + 0.1 * work(joint, 3200.0, 320))
    assert estimate.seconds_of([joint] * 4, 2) == pytest.approx(2 * alone)
    assert estimate.seconds_of([joint], 8) == pytest.approx(alone)


def test_what_was_timed_counts_and_corrects_the_rest(rows):
    joint, agm = rows["methods: concat"], rows["methods: agm"]
    before = Estimate(SPEED).of(agm)
    estimate = Estimate(SPEED, {settings_key(joint): 77.0})
    assert estimate.of(joint) == 77.0
    assert estimate.of(agm) == before
    estimate.learn(joint, 2 * Estimate(SPEED).of(joint))
    assert estimate.of(agm) == pytest.approx(2 * before)


def test_a_few_steps_are_measured(tiny_data, rows):
    config = rows["methods: concat"].config.replace(device="cpu", batch_size=8, train_fraction=0.5)
    speed = measure(config, tiny_data)
    assert speed.step_seconds > 0
    assert (speed.device, speed.train, speed.val) == ("cpu", 80.0, len(tiny_data.splits["val"]))


def test_durations():
    assert [duration(seconds) for seconds in (40, 600, 12000)] == ["40 s", "10 min", "3.3 h"]
