"""One update: what is skipped under float16, and who is told."""

import pytest
import torch
from torch import nn

from mm_balance.engine.step import EngineOptimizerStep
from mm_balance.methods import METHODS
from mm_balance.testing import CPU, planned, set_loss_scale, tiny_data, tiny_stage, update


def stepper_of(precision):
    layer = nn.Linear(2, 1, bias=False)
    return layer, EngineOptimizerStep(torch.optim.SGD(layer.parameters(), lr=0.1), CPU, precision)


def test_finite_says_what_step_will_do_under_float16():
    layer, optimizer_step = stepper_of("float16")
    for size, counts in ((1.0, True), (1e38, False), (1.0, True)):
        before = layer.weight.detach().clone()
        optimizer_step.zero_grad()
        optimizer_step.backward((layer.weight * size).sum())
        assert optimizer_step.finite() is counts
        optimizer_step.step()
        assert (not torch.equal(layer.weight, before)) is counts


def test_gradients_that_are_put_in_by_hand_count_too():
    layer, optimizer_step = stepper_of("float16")
    (layer.weight.grad,) = optimizer_step.gradients((layer.weight * 1e38).sum(), [layer.weight])
    optimizer_step.unscale()
    assert not optimizer_step.finite()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_a_loss_scale_every_step_counts_and_nobody_waits_for_the_device(precision):
    layer, optimizer_step = stepper_of(precision)
    optimizer_step.backward(layer.weight.sum() * float("inf"))
    assert optimizer_step.finite() is True


def test_a_method_modulates_only_gradients_of_steps_that_count(monkeypatch):
    stage = tiny_stage(METHODS["concat"], data=tiny_data(train=16, size=16), precision="float16")
    _, batches = planned(stage)
    seen = []
    monkeypatch.setattr(
        stage.method, "modulate",
        lambda model, *_: seen.append(all(bool(value.grad.isfinite().all()) for value in model.parameters())),
    )  # fmt: skip
    for scale in (4.0, 2.0**100, 4.0):
        set_loss_scale(stage, scale)
        update(stage, batches[0])
    assert seen == [True, True]
