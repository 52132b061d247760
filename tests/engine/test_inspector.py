"""Copies that a method trains between two epochs: their learning rate, their samples, what they predict."""

import pytest
import torch
from torch.nn import functional

from mm_balance.engine import loop
from mm_balance.engine.inspector import EngineInspector
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.step import EngineOptimizerStep, build_optimizer
from mm_balance.errors import Interrupted
from mm_balance.functional.folds import stratified_folds
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
        inspector.train_copy(lambda network, batch: 1e-6 * network(batch.inputs).fused.square().mean(), 4)
        return loop.EpochPlan()

    stage.method.refresh = refresh
    expected = [rate for rate in (0.5, 0.25 * 0.5, 0.25 * 0.5, 0.25 * 0.5) for _ in range(2)]
    assert rates_of_copies(stage, loop.Clock(2, 2, 4)) == [pytest.approx(expected)]


def inspector_of(stage, stop_requested=lambda: False):
    return EngineInspector(
        model=stage.model, gap_fit=None, method=stage.method, data=stage.data, device=CPU, batch_size=stage.batch_size,
        seed=5, new_optimizer_step=stage.new_optimizer_step, learning_rate=stage.learning_rate,
        clock=loop.Clock(2, 0, stage.epochs), stop_requested=stop_requested,
    )  # fmt: skip


def joint_loss(network, batch):
    return functional.cross_entropy(network(batch.inputs).fused, batch.labels)


def test_every_sample_is_predicted_by_the_one_copy_that_never_trained_on_it():
    stage = tiny_stage(METHODS["concat"], data=tiny_data(train=41))
    train = stage.data.splits["train"]
    trained_on = {}  # copy -> samples, in the order of the copies

    def spying(network, batch):
        trained_on.setdefault(network, []).append(batch.index)
        return joint_loss(network, batch)

    found = inspector_of(stage).cross_predict(spying, 2, folds=3)

    seen = [torch.cat(batches) for batches in trained_on.values()]
    left_out = [set(range(41)) - set(samples.tolist()) for samples in seen]
    assert sorted(sample for samples in left_out for sample in samples) == list(range(41))
    assert all((samples.bincount(minlength=41) <= 2).all() for samples in seen)  # once an epoch
    for network, own in zip(trained_on, left_out, strict=True):
        chosen = torch.tensor(sorted(own))
        expected = predict_split(network, stage.method, train.subset(chosen), CPU)
        assert torch.equal(found.fused[chosen], expected.fused)
        assert torch.equal(found.unimodal["visual"][chosen], expected.unimodal["visual"])
    assert torch.equal(found.labels, train.labels)
    assert found.samples_digest == train.samples_digest
    assert not found.features


def test_cross_predictions_change_nothing_and_repeat():
    stage = tiny_stage(METHODS["concat"])
    stage.model.train()
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (inspector_of(stage).cross_predict(joint_loss, 1) for _ in range(2))
    assert torch.equal(first.fused, second.fused)
    assert torch.equal(state, torch.get_rng_state())
    assert stage.model.training
    assert all(torch.equal(value, before[name]) for name, value in stage.model.state_dict().items())


def test_copies_for_cross_predictions_are_stopped_on_request():
    stage = tiny_stage(METHODS["concat"])
    polls = iter(range(100))
    with pytest.raises(Interrupted):
        inspector_of(stage, lambda: next(polls) == 6).cross_predict(joint_loss, 1)
    assert next(polls) == 7


def test_a_copy_trains_on_the_samples_it_is_given():
    stage = tiny_stage(METHODS["concat"])
    seen = []

    def spying(network, batch):
        seen.append(batch.index)
        return joint_loss(network, batch)

    chosen = (stratified_folds(stage.data.splits["train"].labels, 4, seed=0) == 1).nonzero().squeeze(1)
    inspector_of(stage).train_copy(spying, 1, samples=chosen)
    assert torch.equal(torch.cat(seen).sort().values, chosen)
