"""Copies that a method trains between two epochs: their learning rate."""

import pytest

from mm_balance.engine import loop
from mm_balance.engine.step import EngineOptimizerStep, build_optimizer
from mm_balance.methods import METHODS
from mm_balance.testing import CPU, tiny_data, tiny_stage


def rates_of_copies(stage, clock):
    """The learning rate at each step of each copy that the method trains before an epoch, one list for each copy."""
    rates = []

    class Spy(EngineOptimizerStep):
        def step(self):
            rates[-1].append(self.optimizer.param_groups[0]["lr"])
            super().step()

    def spying(network):
        rates.append([])
        made = build_optimizer("sgd", network.parameters(), learning_rate=99.0, momentum=0.0, weight_decay=0.0)
        return Spy(made, CPU, "float32")

    stage.new_optimizer_step = spying
    loop.plan_epoch(stage, loop.Progress(), clock, lambda: False)
    return rates


def stage_of(name, settings, epochs):
    """Two batches an epoch; a rate that falls over the stage, and by the epoch over both stages."""
    stage = tiny_stage(METHODS[name], settings, data=tiny_data(train=16), epochs=epochs)
    assert stage.batch_size < len(stage.data.splits["train"]) <= 2 * stage.batch_size
    stage.learning_rate = lambda clock: (1 - clock.fraction) * 0.5 ** (clock.epoch // 3)
    return stage


def test_teachers_follow_the_whole_recipe_from_its_first_epoch():
    stage = stage_of("umt", {"teacher_epochs": 4}, epochs=2)
    expected = [rate for rate in (1.0, 0.75, 0.5, 0.25 * 0.5) for _ in range(2)]
    assert rates_of_copies(stage, loop.Clock(6, 0, 2)) == [pytest.approx(expected)] * 2


def test_copies_of_the_network_train_on_at_the_rates_of_the_coming_epochs():
    stage = stage_of("g_blending", {"horizon": 2}, epochs=4)
    expected = [rate for rate in (0.5 * 0.5, 0.25 * 0.5) for _ in range(2)]
    assert rates_of_copies(stage, loop.Clock(4, 2, 4)) == [pytest.approx(expected)] * 3


def test_a_copy_that_outlives_the_stage_keeps_its_last_rate():
    stage = stage_of("concat", {}, epochs=4)

    def refresh(model, inspector, clock):
        inspector.train_copy(lambda network, batch: network(batch.inputs).fused.square().mean(), 4)
        return loop.EpochPlan()

    stage.method.refresh = refresh
    expected = [rate for rate in (0.5, 0.25 * 0.5, 0.25 * 0.5, 0.25 * 0.5) for _ in range(2)]
    assert rates_of_copies(stage, loop.Clock(2, 2, 4)) == [pytest.approx(expected)]
