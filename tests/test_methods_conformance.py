"""What every registered method must keep to, whatever it does."""

import copy

import pytest
import torch
from conftest import make_tiny_data
from engine.test_loop import CPU, make_stage

from mm_balance.data import BatchLoader
from mm_balance.engine import loop
from mm_balance.methods import METHODS, build_method
from mm_balance.types import Clock

NAMES = list(METHODS)
CLOCK = Clock(2, 0, 4)


def prepared(name, modalities=("audio", "visual")):
    stage = make_stage(name, data=make_tiny_data(modalities))
    stage.method.prepare(stage.model)
    stage.method.refresh(loop._refit(stage, 2), CLOCK)
    stage.model.train()
    batches = list(BatchLoader(stage.data.splits["train"], 8, seed=0).epoch(0, CPU))
    return stage, batches


def update(stage, batch):
    return stage.method.update(stage.model, batch, stage.stepper, CLOCK)


@pytest.mark.parametrize("name", NAMES)
def test_two_updates_are_finite_and_move_the_parameters(name):
    stage, batches = prepared(name)
    before = [parameter.detach().clone() for parameter in stage.model.parameters()]
    for batch in batches[:2]:
        objective = update(stage, batch)
        assert torch.isfinite(objective.total)
        assert all(torch.isfinite(value) and not value.requires_grad for value in objective.parts.values())
        assert sum(objective.parts.values()) == pytest.approx(float(objective.total.detach()), rel=1e-5)
    assert all(torch.isfinite(parameter).all() for parameter in stage.model.parameters())
    moved = [not torch.equal(old, new) for old, new in zip(before, stage.model.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits(name):
    totals = []
    for _ in range(2):
        stage, batches = prepared(name)
        totals.append([update(stage, batch).total.detach().clone() for batch in batches[:3]])
    assert all(torch.equal(one, other) for one, other in zip(*totals, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_in_mid_run_gives_the_same_next_loss(name):
    stage, batches = prepared(name)
    update(stage, batches[0])
    state = copy.deepcopy(loop.capture(stage, loop.Progress()))
    expected = update(stage, batches[1]).total
    other = make_stage(name)
    loop.restore(other, state)
    other.model.train()
    assert torch.equal(update(other, batches[1]).total, expected)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_probabilities(name):
    stage, batches = prepared(name)
    stage.model.eval()
    output = stage.method.predict(stage.model, batches[0])
    probabilities = output.fused.softmax(dim=1)
    assert probabilities.shape == (8, 3)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(8))
    assert set(output.unimodal) == {"audio", "visual"}


@pytest.mark.parametrize("name", NAMES)
def test_three_modalities(name):
    stage, batches = prepared(name, ("audio", "visual", "depth"))
    assert torch.isfinite(update(stage, batches[0]).total)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name):
    method = METHODS[name]
    assert method.name == name
    assert method.title
    assert method.citation


def test_unknown_names_and_missing_options_are_refused():
    with pytest.raises(Exception, match="method=foo is not known; give one of concat"):
        build_method("foo", {}, ("audio", "visual"), 10)
    with pytest.raises(Exception, match="needs the option"):
        build_method("concat_unimodal", {}, ("audio", "visual"), 10)


def test_adaptive_without_its_terms_is_the_control():
    """gap = shift = hard = balanced fusion = 0 leaves fused plus unimodal losses: the same update, bit for bit."""
    plain, batches = prepared("concat_unimodal")
    stage = make_stage("gap_mixture", gap_weight=0.0, shift_weight=0.0, hard_weight=0.0)
    stage.method.refresh(loop._refit(stage, 2), CLOCK)
    stage.model.train()
    for batch in batches[:3]:
        assert float(update(stage, batch).total.detach()) == pytest.approx(
            float(update(plain, batch).total.detach()), rel=1e-5
        )


def test_current_and_refit_posteriors_differ_only_in_when_they_are_taken():
    """Right after a refresh, in eval mode, both sources give the same loss."""
    losses = []
    for source in ("refit", "current"):
        stage = make_stage("gap_mixture", posterior_source=source)
        stage.method.refresh(loop._refit(stage, 2), CLOCK)
        stage.model.eval()
        batch = next(iter(BatchLoader(stage.data.splits["train"], 8, seed=0).epoch(0, CPU)))
        losses.append(float(stage.method.loss(stage.model, batch, CLOCK).total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
