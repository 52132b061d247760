"""What methods do to a network, against plain recomputations on the same tiny network."""

import copy

import pytest
import torch
from torch.nn import functional

from analysis.methods_page import REQUIRED
from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.errors import UserError
from mm_balance.functional.modulation import discrepancy_ratios
from mm_balance.methods import METHODS, parse_options
from mm_balance.models import FUSIONS, HeadSpec, OwnHeads
from mm_balance.testing import CPU, clock_of, first_progress, planned, set_loss_scale, tiny_data, tiny_stage, update

KEPT = ("audio", "visual")


def stage_of(name, settings=None, **extra):
    return tiny_stage(METHODS[name], settings, **extra)


def gradients(stage, batch):
    """Gradients of the method's loss after ``modulate``, by name, before the optimizer's step."""
    stage.optimizer_step.zero_grad()
    loss_output = stage.method.loss(stage.model, batch, clock_of(stage))
    stage.optimizer_step.backward(loss_output.total)
    stage.method.modulate(stage.model, loss_output, batch, clock_of(stage))
    return {name: value.grad.clone() for name, value in stage.model.named_parameters() if value.grad is not None}


def plain_gradients(stage, batch, loss):
    stage.optimizer_step.zero_grad()
    loss(stage.model(batch.inputs), batch.labels).backward()
    return {name: value.grad.clone() for name, value in stage.model.named_parameters() if value.grad is not None}


def fused_loss(output, labels):
    return functional.cross_entropy(output.fused, labels)


def test_ogm_damps_the_convolutions_of_the_stronger_encoder_alone():
    joint, stage = stage_of("concat"), stage_of("ogm", {"alpha": 0.5})
    (_, batches), (_, _) = planned(joint), planned(stage)
    # Lift one modality's logits so that it is clearly ahead.
    for one in (joint, stage):
        with torch.no_grad():
            one.model.fusion.blocks["audio"].weight.mul_(5)
    expected, found = plain_gradients(joint, batches[0], fused_loss), gradients(stage, batches[0])
    output = joint.model(batches[0].inputs)
    scores = {
        name: value.softmax(1).gather(1, batches[0].labels.unsqueeze(1)).sum().detach()
        for name, value in output.unimodal.items()
    }
    ratio = {name: float(value) for name, value in discrepancy_ratios(scores).items()}
    for name, value in expected.items():
        modality = next((one for one in KEPT if f"encoders.{one}" in name), None)
        damped = modality is not None and ratio[modality] > 1 and value.dim() == 4
        factor = 1 - torch.tanh(torch.tensor(0.5 * ratio[modality])) if damped else 1.0
        torch.testing.assert_close(found[name], value * factor, rtol=1e-4, atol=1e-6)
    assert max(ratio.values()) > 1


def test_ogm_ge_noise_is_as_large_as_the_gradient_and_reaches_both_encoders():
    joint, stage = stage_of("concat"), stage_of("ogm_ge", {"alpha": 0.0})
    (_, batches), (_, _) = planned(joint), planned(stage)
    expected, found = plain_gradients(joint, batches[0], fused_loss), gradients(stage, batches[0])
    for modality in KEPT:
        name = max((key for key in expected if f"encoders.{modality}" in key), key=lambda key: expected[key].numel())
        noise = found[name] - expected[name]
        assert float(noise.std() / expected[name].std()) == pytest.approx(1.0, rel=0.02)


def test_modulation_ends_with_its_epochs():
    joint, stage = stage_of("concat"), stage_of("ogm", {"start_epoch": 1})
    (_, batches), (_, _) = planned(joint), planned(stage)
    expected, found = plain_gradients(joint, batches[0], fused_loss), gradients(stage, batches[0])
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_mmpareto_against_plain_autograd():
    stage = stage_of("mmpareto", {"gamma": 1.0})
    _, batches = planned(stage)
    batch, model = batches[0], stage.model
    before = copy.deepcopy(model)
    update(stage, batch)
    output = before(batch.inputs)
    losses = [functional.cross_entropy(output.fused, batch.labels)]
    losses += [functional.cross_entropy(output.unimodal[name], batch.labels) for name in KEPT]
    for place, modality in enumerate(KEPT, 1):
        parameters = list(before.encoders[modality].parameters())
        joint = torch.autograd.grad(losses[0], parameters, retain_graph=True)
        own = torch.autograd.grad(losses[place], parameters, retain_graph=True)
        product = sum(float((one * two).sum()) for one, two in zip(joint, own, strict=True))
        own_square = sum(float(two.square().sum()) for two in own)
        apart = sum(float((one - two).square().sum()) for one, two in zip(joint, own, strict=True))
        weight = 0.5 if product > 0 else (own_square - product) / apart
        for one, two, parameter in zip(joint, own, model.encoders[modality].parameters(), strict=True):
            mixed = 2 * weight * one + 2 * (1 - weight) * two
            mixed = mixed * max(1.0, float((one + two).norm() / mixed.norm()))
            torch.testing.assert_close(parameter.grad, mixed, rtol=1e-3, atol=1e-6)
    heads = torch.autograd.grad(sum(losses), list(before.fusion.parameters()))
    for expected, parameter in zip(heads, model.fusion.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_mla_moves_one_encoder_per_turn_and_the_head_in_every_turn():
    stage = stage_of("mla", {"projection": "none"})
    _, batches = planned(stage)
    before = copy.deepcopy(stage.model)
    update(stage, batches[0])
    other = copy.deepcopy(before)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for name in KEPT:
        optimizer.zero_grad(set_to_none=True)
        logits = other.fusion.output(other.encoders[name]((batches[0].inputs[name] - 0.8) / 1.2))
        functional.cross_entropy(logits, batches[0].labels).backward()
        optimizer.step()
    for name, value in other.named_parameters():
        torch.testing.assert_close(dict(stage.model.named_parameters())[name], value, rtol=1e-4, atol=1e-6)


def test_agm_leaves_the_loss_and_the_running_statistics_as_in_joint_training():
    joint, stage = stage_of("concat"), stage_of("agm", {"clip": 0.0})
    (_, batches), (_, _) = planned(joint), planned(stage)
    first, second = update(joint, batches[0]), update(stage, batches[0])
    assert float(first.total.detach()) == pytest.approx(float(second.total.detach()), rel=1e-6)
    for name, value in joint.model.named_buffers():
        assert torch.equal(value, dict(stage.model.named_buffers())[name]), name
    assert stage.model.training


def test_agm_against_hooks_on_responses_of_separate_passes():
    """The released code's way: f, net(audio, 0) and net(0, visual), and hooks that scale the gradient into each response."""
    stage = stage_of("agm", {"clip": 0.0, "alpha": 1.5})
    _, batches = planned(stage)
    stage.method.running.copy_(torch.tensor([0.9, 1.4]))
    stage.method.steps.fill_(10)
    batch, other = batches[0], copy.deepcopy(stage.model)
    found = gradients(stage, batch)
    blank = {name: torch.full_like(value, 0.8) for name, value in batch.inputs.items()}  # 0.8 is the mean of tiny data
    fused = other(batch.inputs).fused
    other.eval()
    audio = other({"audio": batch.inputs["audio"], "visual": blank["visual"]}).fused
    visual = other({"audio": blank["audio"], "visual": batch.inputs["visual"]}).fused
    responses = {"audio": (fused - visual + audio) / 2, "visual": (fused - audio + visual) / 2}
    for factor, value in zip(stage.method.factors.tolist(), responses.values(), strict=True):
        value.register_hook(lambda gradient, factor=factor: gradient * factor)
    functional.cross_entropy(responses["audio"] + responses["visual"], batch.labels).backward()
    assert max(abs(factor - 1) for factor in stage.method.factors.tolist()) > 0.1
    for name, value in other.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=2e-3, atol=2e-6)


def test_agm_slices_scale_the_encoders_alone():
    joint, stage = stage_of("concat"), stage_of("agm", {"clip": 0.0, "responses": "slices"})
    (_, batches), (_, _) = planned(joint), planned(stage)
    expected, found = plain_gradients(joint, batches[0], fused_loss), gradients(stage, batches[0])
    for name, value in expected.items():
        place = next((number for number, one in enumerate(KEPT) if f"encoders.{one}" in name), None)
        factor = 1.0 if place is None else stage.method.factors[place]
        torch.testing.assert_close(found[name], value * factor, rtol=1e-4, atol=1e-6)
    assert stage.method.cost().forward == 1


def test_agm_with_equal_factors_is_joint_training():
    joint, stage = stage_of("concat"), stage_of("agm", {"alpha": 0.0, "clip": 0.0})
    (_, batches), (_, _) = planned(joint), planned(stage)
    expected, found = plain_gradients(joint, batches[0], fused_loss), gradients(stage, batches[0])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


def test_agm_head_is_clipped_where_it_is_steep():
    stage = stage_of("agm", {"clip": 1e-4})
    _, batches = planned(stage)
    norms = [value.norm() for value in gradients(stage, batches[0]).values()]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-4, rel=1e-3)


def test_the_ensemble_is_its_members_trained_alone():
    together = stage_of("ensemble")
    _, batches = planned(together)
    start = copy.deepcopy(together.model)
    for batch in batches[:3]:
        update(together, batch)
    for name in KEPT:
        alone = copy.deepcopy(start)
        optimizer = torch.optim.SGD(alone.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for batch in batches[:3]:
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(alone.alone(batch.inputs, name), batch.labels).backward()
            optimizer.step()
        for one, other in zip(together.model.encoder_parameters(name), alone.encoder_parameters(name), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_one_modality_alone_runs_no_other_encoder():
    stage = stage_of("visual_only")
    _, batches = planned(stage)
    update(stage, batches[0])
    assert set(stage.model.passes.forward) == {"visual"}
    with pytest.raises(
        UserError, match="visual_only needs a modality visual; there are audio, depth: give method=one_"
    ):
        stage_of("visual_only", data=tiny_data(("audio", "depth")))


def test_one_modality_of_any_name_is_the_control_of_that_name():
    named, short = stage_of("one_modality", {"modality": "visual"}), stage_of("visual_only")
    for stage in (named, short):
        _, batches = planned(stage)
        update(stage, batches[0])
    assert {name: value.tolist() for name, value in named.model.state_dict().items()} == {
        name: value.tolist() for name, value in short.model.state_dict().items()
    }
    assert named.method.cost() == short.method.cost()
    assert [stage.method.headline() for stage in (named, short)] == ["Visual alone"] * 2

    other = stage_of("one_modality", {"modality": "depth"}, data=tiny_data(("touch", "depth", "heat")))
    _, batches = planned(other)
    update(other, batches[0])
    assert set(other.model.passes.forward) == {"depth"}
    assert other.method.cost().forward == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "method one_modality needs a modality; there are touch, depth: give .* method_options=modality=touch"),
        ({"modality": "audio"}, "method one_modality needs a modality audio; there are touch, depth: give"),
    ],
)
def test_one_modality_must_be_one_of_the_data(settings, message):
    with pytest.raises(UserError, match=message):
        stage_of("one_modality", settings, data=tiny_data(("touch", "depth")))


def test_a_copy_that_is_trained_and_thrown_away_leaves_no_trace():
    stage = stage_of("g_blending", {"horizon": 4}, data=tiny_data(train=240))
    before = copy.deepcopy(stage.model.state_dict())
    random_before = torch.get_rng_state()
    loop.plan_epoch(stage, loop.Progress(), clock_of(stage), lambda: False)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert all(torch.equal(value, before[name]) for name, value in stage.model.state_dict().items())
    assert not stage.optimizer_step.optimizer.state
    assert float(stage.method.blend.sum()) == pytest.approx(1.0)
    assert not torch.allclose(stage.method.blend, torch.full((3,), 1 / 3))


def test_g_blending_shared_heads_are_the_slices():
    assert stage_of("g_blending", {"heads": "shared"}).model.head == HeadSpec(FUSIONS["concat"])
    assert stage_of("g_blending").model.head == HeadSpec(OwnHeads, {"joint": "concat"})


def test_a_part_of_train_is_held_out_and_nothing_else():
    whole, data = tiny_data(), stage_of("diagnose_relearn").data
    train, held_out = set(data.splits["train"].samples), set(data.splits["held_out"].samples)
    assert not train & held_out
    assert train | held_out == set(whole.splits["train"].samples)
    assert len(held_out) == pytest.approx(0.1 * 40, abs=1)
    assert data.splits["val"].samples == whole.splits["val"].samples


def test_methods_may_not_look_at_validation_or_test():
    stage = stage_of("concat")
    looks = []
    stage.method.refresh = lambda model, inspector, clock: looks.append(inspector) or loop.EpochPlan()
    loop.plan_epoch(stage, loop.Progress(), clock_of(stage), lambda: False)
    for part in ("val", "test"):
        with pytest.raises(ValueError, match="train or held_out"):
            looks[0].predict_split(part)


def test_relearning_pulls_encoders_towards_their_start_and_leaves_the_head():
    stage = stage_of("diagnose_relearn", {"every": 1, "strength": 50.0})
    progress, batches = planned(stage)
    start = copy.deepcopy(stage.model)
    for batch in batches:
        update(stage, batch)
    moved = copy.deepcopy(stage.model)
    progress.stage_epoch = 2
    loop.plan_epoch(stage, progress, loop.Clock(4, 2, 4), lambda: False)
    for name in KEPT:
        weight = progress.plan.notes[f"method/pulled_back_{name}"]
        assert 0 <= weight <= 1
        for one, old, now in zip(
            start.encoder_parameters(name), moved.encoder_parameters(name), stage.model.encoder_parameters(name), strict=True
        ):  # fmt: skip
            torch.testing.assert_close(now, old.lerp(one, weight))
    for old, now in zip(moved.fusion.parameters(), stage.model.fusion.parameters(), strict=True):
        assert torch.equal(old, now)


def test_samples_that_are_shown_again_have_one_modality():
    stage = stage_of("sample_valuation", {"start_epoch": 0})
    progress, batches = planned(stage)
    plan = progress.plan
    assert len(plan.samples) > 40, "an untrained network gets much wrong"
    assert plan.samples[:40].tolist() == list(range(40))
    again = torch.stack([plan.present[name][40:] for name in KEPT]).int()
    assert again.sum(dim=0).eq(1).all()
    assert all(bool(plan.present[name][:40].all()) for name in KEPT)
    batch = next(item for item in batches if not all(bool(value.all()) for value in item.present.values()))
    stage.optimizer_step.zero_grad()
    hidden = stage.model.encode(batch.inputs)
    loss_output = stage.method.loss(stage.model, batch, clock_of(stage))
    for name in KEPT:
        shown = batch.present[name].unsqueeze(1)
        torch.testing.assert_close(loss_output.output.features[name] == 0, (hidden[name] == 0) | ~shown)


def test_greedy_cuts_off_for_exactly_its_steps():
    stage = stage_of("greedy", {"start_epoch": 0, "steps": 2, "threshold": 0.0})
    _, batches = planned(stage)
    modes = []
    for number, batch in enumerate([*batches, *batches]):
        modes.append(stage.method.cut_off is not None)
        update(stage, batch, number)
        assert stage.model.interaction.transfers[0].cut_off is None, "surveys see the whole network"
    assert modes[:7] == [False, True, True, False, True, True, False]


def test_greedy_is_on_under_float16_as_under_float32():
    """The first steps overflow, as they do on a GPU with torch's initial loss scale; so does one amid the mode, which it prolongs."""
    settings = {"start_epoch": 0, "steps": 2, "threshold": 0.0}
    stage = stage_of("greedy", settings, data=tiny_data(train=16, size=16), precision="float16")
    _, batches = planned(stage)
    modes = []
    for number, overflows in enumerate((True, True, False, False, True, False, False, False)):
        set_loss_scale(stage, 2.0**100 if overflows else 4.0)
        modes.append(stage.method.cut_off is not None)
        update(stage, batches[number % 2], number)
    assert modes == [False, False, False, True, True, True, False, True]


def test_greedy_alone_has_encoders_that_see_one_another():
    assert [name for name, method in METHODS.items() if method.sees_others()] == ["greedy"]


def test_umt_teachers_are_trained_alone_and_stay():
    stage = stage_of("umt", {"teacher_epochs": 2})
    fresh = copy.deepcopy(stage.method.teacher.state_dict())
    _, batches = planned(stage)
    taught = copy.deepcopy(stage.method.teacher.state_dict())
    changed = [name for name in taught if name.startswith("encoders.") and not torch.equal(fresh[name], taught[name])]
    assert changed
    update(stage, batches[0])
    assert all(torch.equal(taught[name], value) for name, value in stage.method.teacher.state_dict().items())


def test_pmr_prototypes_are_the_class_means_of_the_training_features():
    stage = stage_of("pmr", {"momentum": 0.25})
    _, _ = planned(stage)
    train = stage.data.splits["train"]
    stage.model.eval()
    features = stage.model.encode(train.inputs)
    for name in KEPT:
        means = torch.stack([features[name][train.labels == label].mean(dim=0) for label in range(3)])
        torch.testing.assert_close(stage.method.get_buffer(f"prototypes_{name}"), means.detach(), rtol=1e-4, atol=1e-5)
        stage.method.get_buffer(f"prototypes_{name}").zero_()
    loop.plan_epoch(
        stage, loop.Progress(), loop.Clock(4, 2, 4), lambda: False
    )  # from the third epoch on, with momentum
    for name in KEPT:
        means = torch.stack([features[name][train.labels == label].mean(dim=0) for label in range(3)])
        found = stage.method.get_buffer(f"prototypes_{name}")
        torch.testing.assert_close(found, 0.75 * means.detach(), rtol=1e-4, atol=1e-5)


def test_purification_trains_on_the_balanced_samples():
    stage = stage_of("purified", {"threshold": 0.3})
    progress, batches = planned(stage)
    kept = set(progress.plan.samples.tolist())
    posterior = progress.gap_fit.posterior_imbalanced
    assert {place for place in range(40) if posterior[place] <= 0.3} <= kept
    assert {place for batch in batches for place in batch.index.tolist()} == kept
    assert set(stage.data.splits["train"].labels[sorted(kept)].tolist()) == {0, 1, 2}


def test_reconboost_trains_one_encoder_then_all():
    stage = stage_of("reconboost", {"phase_epochs": 1})
    moved = []
    for epoch in range(4):
        before = copy.deepcopy(stage.model)
        clock = loop.Clock(epoch, epoch, 4)
        loop.plan_epoch(stage, loop.Progress(), clock, lambda: False)
        assert not stage.optimizer_step.optimizer.state, "each phase has a fresh optimizer"
        stage.model.train()
        batch = next(iter(loop.BatchLoader(stage.data.splits["train"], 8).epoch(0, CPU)))
        stage.method.update(stage.model, batch, stage.optimizer_step, clock)
        moved.append([
            name for name in KEPT
            if not torch.equal(next(before.encoder_parameters(name)), next(stage.model.encoder_parameters(name)))
        ])  # fmt: skip
    assert moved == [["audio"], ["audio", "visual"], ["visual"], ["audio", "visual"]]


def test_a_copy_under_way_can_be_interrupted():
    stage = stage_of("g_blending")
    with pytest.raises(loop.Interrupted):
        loop.fit(stage, first_progress(stage), ListRecorder(), lambda: True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha", "has no value"),
        ("alpha=0.1,alpha=0.2", "given twice"),
        ("alpha=-1", "out of range"),
        ("alpha=x", "is not a number"),
        ("tie=never", "not known"),
        ("beta=1", "ogm has no option 'beta'; it has: alpha"),
    ],
)
def test_bad_method_options(text, message):
    with pytest.raises(UserError, match=message):
        parse_options("ogm", METHODS["ogm"].Options, text)


def test_method_options_are_typed():
    found = parse_options("opm_ogm", METHODS["opm_ogm"].Options, " noise=false, alpha=0.25,end_epoch=7")
    assert found == {"noise": False, "alpha": 0.25, "end_epoch": 7}


def test_a_head_of_its_own_needs_the_default_fusion():
    with pytest.raises(UserError, match="mmcosine brings its own head; leave fusion=concat"):
        stage_of("mmcosine", fusion="film")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_begins_from_a_warm_up_of_the_concat_network(name):
    warm = stage_of("concat_unimodal")
    stage = stage_of(name, REQUIRED.get(name))
    fresh = stage.model.initialize_from(warm.model.state_dict())
    assert all(item.startswith(("fusion.", "interaction.")) for item in fresh)
    for modality in KEPT:
        for one, other in zip(
            warm.model.encoder_parameters(modality), stage.model.encoder_parameters(modality), strict=True
        ):
            assert torch.equal(one, other)
