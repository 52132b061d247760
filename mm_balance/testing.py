"""Conformance tests for methods, to be inherited by the tests of any method, built-in or not.

    from mm_balance.testing import MethodConformance

    class TestMine(MethodConformance):
        method = Mine

Run with pytest on a CPU in seconds. ``tiny_data`` and ``tiny_stage`` are available for method-specific tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mm_balance.config import declared_dimension
from mm_balance.data import BatchLoader, MultimodalData, Split
from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.engine.step import EngineOptimizerStep, build_optimizer
from mm_balance.errors import Interrupted, UserError
from mm_balance.input_kinds import IMAGE, INPUT_KINDS, SEQUENCE, VECTOR
from mm_balance.methods import Method, check_takes_labels, option_lines, parse_options
from mm_balance.methods.options import complete, declared_options
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import seed_everything
from mm_balance.types import Batch, InputSpec, LossOutput

CPU = torch.device("cpu")
TINY_STEPS = 5
"""Steps of the sequences of ``tiny_data``."""
FIRST_EPOCH = 2
"""Epochs assumed finished before a tiny stage starts."""


def tiny_data(
    modalities: Sequence[str] = ("audio", "visual"),
    classes: int = 3,
    train: int = 40,
    seed: int = 0,
    size: int = 8,
    kind: str = IMAGE,
    *,
    several_classes: bool = False,
) -> MultimodalData:
    """Generate noisy samples whose class is visible in every modality, most clearly in the first; trains in milliseconds.

    Args:
        modalities: modality names.
        classes: number of classes.
        train: number of training samples.
        seed: seed of the noise.
        kind: ``image``, ``vector`` or ``sequence``.
        size: height and width in pixels, or features of a vector or a step. Below 16 the last convolutions see
            single pixels, for which oneDNN leaves bfloat16 weight gradients unset (torch 2.14, CPU): use 16 for half precision.
        several_classes: every other sample has a second true class.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = {IMAGE: (1, size, size), VECTOR: (size,), SEQUENCE: (TINY_STEPS, size)}[kind]
    channels = shape[INPUT_KINDS[kind].channels]

    def split(name: str, samples: int) -> Split:
        numbers = torch.arange(samples) % classes
        labels = numbers
        if several_classes:
            labels = nn.functional.one_hot(numbers, classes).bool()
            labels[::2] |= labels[::2].roll(1, dims=1)
        inputs = {
            modality: torch.randn(samples, *shape, generator=generator)
            + numbers.view(-1, *(1 for _ in shape)) * (1.0 - 0.4 * position)
            for position, modality in enumerate(modalities)
        }
        corrupted = [modalities[index % 2] if name == "train" and index % 5 == 0 else "" for index in range(samples)]
        return Split(name, inputs, labels, [f"{name}-{index}" for index in range(samples)], corrupted)

    splits = {name: split(name, samples) for name, samples in (("train", train), ("val", 12), ("test", 12))}
    return MultimodalData(
        name="tiny",
        classes=tuple(str(index) for index in range(classes)),
        specs={name: InputSpec(kind, shape, (0.8,) * channels, (1.2,) * channels) for name in modalities},
        splits=splits,
        digest="0" * 64,
        recipe="none",
        truth_known=True,
        counts={name: len(value) for name, value in splits.items()},
        source="made by a test.",
    )


def tiny_stage(
    method: type[Method],
    settings: dict[str, Any] | None = None,
    *,
    data: MultimodalData | None = None,
    epochs: int = 4,
    refit_every: int = 2,
    optimizer: str = "sgd",
    fusion: str | None = None,
    precision: str = "float32",
    skip_not_finite: bool = False,
    encoder: str = "resnet_narrow",
    frozen: Sequence[str] = (),
) -> loop.Stage:
    """Build a stage of ``method`` on ``tiny_data`` with seed 0 and a learning rate that decays from 0.05 to 0.

    ``settings`` maps option names to values; ``fusion`` None = the first one that the method supports; ``frozen`` = modalities whose
    encoder is not trained.
    """
    data = (data or tiny_data()).with_held_out(method.held_out, seed=0)
    seed_everything(0)
    chosen = method(complete(method.Options, settings or {}), tuple(data.specs), len(data.splits["train"]))
    model = MultimodalNetwork(
        data.specs,
        len(data.classes),
        encoder=encoder,
        fusion=chosen.head(method.fusions[0] if fusion is None else fusion),
        interaction=chosen.interaction,
    )

    model.freeze(frozen)

    def optimizer_step(network: nn.Module) -> EngineOptimizerStep:
        built = build_optimizer(optimizer, network.parameters(), learning_rate=0.05, momentum=0.9, weight_decay=1e-4)
        return EngineOptimizerStep(built, CPU, precision, skip_not_finite=skip_not_finite)

    chosen.prepare(model)
    return loop.Stage(
        model=model, method=chosen, optimizer_step=optimizer_step(model), data=data, device=CPU, batch_size=8, seed=3,
        epochs=epochs, refit_every=refit_every, mixture="two", learning_rate=lambda clock: 0.05 * (1 - clock.fraction),
        title="test", new_optimizer_step=optimizer_step,
    )  # fmt: skip


def first_progress(stage: loop.Stage) -> loop.Progress:
    """Return the initial progress of a tiny stage: as after a warm-up, with a gap fit."""
    return loop.Progress(first_epoch=FIRST_EPOCH, gap_fit=loop.measure_gaps(stage, FIRST_EPOCH))


def planned(stage: loop.Stage) -> tuple[loop.Progress, list[Batch]]:
    """Plan the first epoch of ``stage`` and put it in training mode; return progress and the epoch's batches."""
    progress = first_progress(stage)
    loop.plan_epoch(stage, progress, clock_of(stage), lambda: False)
    stage.model.train()
    loader = BatchLoader(stage.data.splits["train"], stage.batch_size, seed=stage.seed)
    plan = progress.plan
    return progress, list(loader.epoch(FIRST_EPOCH, CPU, samples=plan.samples, present=plan.present))


def clock_of(stage: loop.Stage) -> loop.Clock:
    """Return the clock in the first epoch of a tiny stage."""
    return loop.Clock(FIRST_EPOCH, 0, stage.epochs)


def update(stage: loop.Stage, batch: Batch, number: int = 0) -> LossOutput:
    """Perform one update of the first epoch; ``number`` is the batch's index in it."""
    return stage.method.update(
        stage.model, batch, stage.optimizer_step, loop.Clock(FIRST_EPOCH, 0, stage.epochs, number, 5)
    )


def boundary_settings(options: type) -> Iterator[dict[str, Any]]:
    """Yield settings of one option each: the bounds of its search space and of its allowed range, and each choice.

    An exclusive minimum is replaced by a value just above it.
    """
    for option in declared_options(options).values():
        values = [*option.choices, *((True, False) if option.type is bool else ())]
        if option.search is not None:
            searched = declared_dimension(option, None)
            values += searched.choices or (searched.low, searched.high)
        if option.minimum is not None:
            just_above = 1 if option.type is int else 1e-6
            values.append(option.type(option.minimum + just_above * option.exclusive))
        if option.maximum is not None:
            values.append(option.type(option.maximum))
        yield from ({option.name: value} for value in dict.fromkeys(values))


@torch.no_grad()
def saturate(model: MultimodalNetwork) -> None:
    """Scale features and logits until softmax returns exactly 0 and 1 in float32 (cosine heads stay bounded)."""
    for encoder in model.encoders.values():
        last = [layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
        last.weight.mul_(1000)
    for parameter in model.fusion.parameters():
        parameter.mul_(1000)


@torch.no_grad()
def relabeled(model: MultimodalNetwork, batch: Batch, *, first_knows: bool) -> Batch:
    """Relabel the batch with classes that no modality predicts; ``first_knows``: where the first modality disagrees with all
    others, with its prediction.
    """
    probabilities = [value.softmax(dim=1) for value in model(batch.inputs).unimodal.values()]
    labels = torch.stack(probabilities).sum(dim=0).argmin(dim=1)
    first, *others = (value.argmax(dim=1) for value in probabilities)
    disagrees = torch.stack([first != other for other in others]).all(dim=0)
    return replace(batch, labels=torch.where(disagrees & first_knows, first, labels))


def first_batch(stage: loop.Stage) -> Batch:
    """Return a batch of eight training samples."""
    return next(BatchLoader(stage.data.splits["train"], 8, seed=stage.seed).epoch(FIRST_EPOCH, CPU))


def set_loss_scale(stage: loop.Stage, scale: float) -> None:
    """Set the loss scale used under float16."""
    state = stage.optimizer_step.state_dict()
    stage.optimizer_step.load_state_dict({**state, "scaler": {**state["scaler"], "scale": scale}})


def differing(state: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names whose values differ between two state dicts, bit by bit."""
    return [
        name for name, value in state.items()
        if not (torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name])
    ]  # fmt: skip


def not_finite(stage: loop.Stage) -> list[str]:
    """Return the names of non-finite parameters, gradients and method state."""
    values: dict[str, Any] = dict(stage.model.named_parameters())
    values |= {f"gradient of {name}": value.grad for name, value in stage.model.named_parameters()}
    values |= {f"method's {name}": value for name, value in stage.method.state_dict().items()}
    return [name for name, value in values.items() if isinstance(value, Tensor) and not bool(value.isfinite().all())]


class MethodConformance:
    """Tests of the method interface: inherit and set ``method``.

    Attributes:
        method: the class under test.
        settings: options that differ from their defaults.
        frozen_prefixes: name prefixes of parameters that may stay unchanged in the first updates.
    """

    method: ClassVar[type[Method]]
    settings: ClassVar[dict[str, Any]] = {}
    frozen_prefixes: ClassVar[tuple[str, ...]] = ()

    def stage(self, modalities: Sequence[str] = ("audio", "visual"), **extra: Any) -> loop.Stage:
        return tiny_stage(self.method, self.settings, data=tiny_data(modalities), **extra)

    def test_two_updates_are_finite_and_move_the_parameters(self) -> None:
        stage = self.stage()
        _, batches = planned(stage)
        before = {name: value.detach().clone() for name, value in stage.model.named_parameters()}
        for number, batch in enumerate(batches[:2]):
            loss_output = update(stage, batch, number)
            assert torch.isfinite(loss_output.total)
            assert all(torch.isfinite(value) and not value.requires_grad for value in loss_output.parts.values())
            torch.testing.assert_close(
                torch.stack(list(loss_output.parts.values())).sum(), loss_output.total.detach(), rtol=1e-4, atol=1e-5
            )
        after = dict(stage.model.named_parameters())
        assert all(bool(torch.isfinite(value).all()) for value in after.values())
        unread = [f"encoders.{name}." for name in stage.model.modalities if name not in stage.model.fusion.uses]
        expected = [name for name in before if not name.startswith((*self.frozen_prefixes, *unread))]
        moved = [name for name in expected if not torch.equal(before[name], after[name])]
        assert len(moved) > 0.9 * len(expected), sorted(set(expected) - set(moved))

    def test_several_true_classes_per_sample_are_trained_on_or_refused(self) -> None:
        data = tiny_data(several_classes=True)
        try:
            check_takes_labels(self.method, several_classes=data.several_classes)
        except UserError:
            assert not self.method.several_classes
            return
        stage = tiny_stage(self.method, self.settings, data=data, epochs=3, refit_every=1)
        _, batches = planned(stage)

        def loss(labels: Tensor) -> Tensor:
            seed_everything(1)
            batch = replace(batches[0], labels=labels)
            return stage.method.loss(stage.model, batch, clock_of(stage)).total.detach()

        given = batches[0].labels
        for number in range(given.shape[1]):  # a true class more changes the loss, whichever it is
            more = given.clone()
            more[:, number] = True
            assert bool((given[:, number] == more[:, number]).all()) or not torch.equal(loss(given), loss(more)), number
        whole = tiny_stage(self.method, self.settings, data=data, epochs=3, refit_every=1)
        recorder = ListRecorder()
        loop.fit(whole, first_progress(whole), recorder, lambda: False)
        assert not not_finite(whole)
        assert all(value == value for point in recorder.points for value in point.metrics.values()), (
            "NaN among the metrics"
        )

    def test_same_seed_same_bits(self) -> None:
        def totals() -> list[Tensor]:
            stage = self.stage()
            _, batches = planned(stage)
            return [update(stage, batch, number).total.detach().clone() for number, batch in enumerate(batches[:3])]

        assert all(torch.equal(one, other) for one, other in zip(totals(), totals(), strict=True))

    def test_saved_and_loaded_in_mid_run_gives_the_same_next_loss(self) -> None:
        stage = self.stage()
        progress, batches = planned(stage)
        update(stage, batches[0], 0)
        state = copy.deepcopy(loop.capture(stage, progress))
        expected = update(stage, batches[1], 1).total
        other = self.stage()
        loop.restore(other, state)
        other.model.train()
        assert torch.equal(update(other, batches[1], 1).total, expected)

    def test_a_whole_stage_interrupted_and_continued_ends_with_the_same_bits(self) -> None:
        whole = self.stage(epochs=3, refit_every=1)
        loop.fit(whole, first_progress(whole), ListRecorder(), lambda: False)
        stopped, recorder = self.stage(epochs=3, refit_every=1), ListRecorder()
        polls = iter(range(10**9))
        with suppress(Interrupted):
            loop.fit(stopped, first_progress(stopped), recorder, lambda: next(polls) >= 13)
        assert recorder.state is not None
        other = self.stage(epochs=3, refit_every=1)
        progress = loop.restore(other, copy.deepcopy(recorder.state))
        loop.fit(other, progress, ListRecorder(), lambda: False)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name

    def test_every_option_at_its_ends_keeps_everything_finite_where_predictions_are_certain(self) -> None:
        gap_fit = None
        for setting in ({}, *boundary_settings(self.method.Options)):
            stage = tiny_stage(self.method, {**self.settings, **setting}, data=tiny_data(train=16), epochs=3)
            saturate(stage.model)
            # A tiny rate keeps predictions saturated: with weights a thousand times larger, the usual one would diverge.
            stage.learning_rate = lambda clock: 1e-9
            stage.optimizer_step.set_learning_rate(1e-9)
            if self.method.needs_warmup and gap_fit is None:
                gap_fit = loop.measure_gaps(stage, FIRST_EPOCH)
            for epoch, first_knows in ((0, True), (2, False)):
                now = loop.Clock(epoch, epoch, stage.epochs)
                loop.plan_epoch(stage, loop.Progress(gap_fit=gap_fit), now, lambda: False)
                stage.model.train()
                batch = relabeled(stage.model, first_batch(stage), first_knows=first_knows)
                loss_output = stage.method.update(stage.model, batch, stage.optimizer_step, now)
                assert torch.isfinite(loss_output.total), (setting, epoch)
                assert not not_finite(stage), (setting, epoch)

    def test_float16_trains_as_float32_does_and_a_skipped_step_leaves_no_trace(self) -> None:
        data = tiny_data(train=16, size=16)
        exact, half = (
            tiny_stage(self.method, self.settings, data=data, epochs=2, precision=precision)
            for precision in ("float32", "float16")
        )
        _, batches = planned(exact)
        # The first update moves the weights as in float32.
        start, method_state = copy.deepcopy(exact.model.state_dict()), copy.deepcopy(exact.method.state_dict())
        set_loss_scale(half, 4.0)
        for stage in (exact, half):
            stage.model.load_state_dict(start)
            stage.method.load_state_dict(method_state)
            stage.model.train()
            seed_everything(1)
            update(stage, batches[0])
        expected, actual = (_displacement(stage.model, start) for stage in (exact, half))
        assert float((actual - expected).norm() / expected.norm()) < 0.3

        # A step that overflows changes neither weights nor method state.
        too_large = replace(batches[-1], inputs={name: value * 1e6 for name, value in batches[-1].inputs.items()})
        weights = copy.deepcopy(dict(half.model.named_parameters()))
        method_state = copy.deepcopy(half.method.state_dict())
        for batch, scale in (
            (batches[-1], 2.0**100),
            (too_large, 4.0),
        ):  # overflow in the backward, in the forward pass
            set_loss_scale(half, scale)
            update(half, batch, 1)
            assert not differing(weights, dict(half.model.named_parameters())), "the step should have been skipped"
            assert not differing(method_state, half.method.state_dict()), "method state must be updated in modulate"
        set_loss_scale(half, 4.0)
        half.model.load_state_dict(
            {**half.model.state_dict(), **_statistics(start)}
        )  # undo the overflow in batch statistics
        assert torch.isfinite(update(half, batches[-1], 1).total)
        assert not not_finite(half)
        assert differing(weights, dict(half.model.named_parameters()))

    def test_bfloat16_is_finite(self) -> None:
        stage = tiny_stage(
            self.method, self.settings, data=tiny_data(train=16, size=16), epochs=2, precision="bfloat16"
        )
        _, batches = planned(stage)
        for number, batch in enumerate(batches[:2]):
            assert torch.isfinite(update(stage, batch, number).total)
            assert not not_finite(stage)

    def test_a_modality_sees_the_others_only_where_the_method_says_so(self) -> None:
        stage = self.stage()
        batch = first_batch(stage)
        stage.model.eval()
        with torch.no_grad():
            one, other = (
                stage.method.predict(stage.model, replace(batch, inputs={**batch.inputs, **changed})).unimodal
                for changed in ({}, {"visual": -batch.inputs["visual"]})
            )
        assert torch.equal(one["audio"], other["audio"]) is not self.method.sees_others()

    def test_predictions_are_probabilities(self) -> None:
        stage = self.stage()
        _, batches = planned(stage)
        stage.model.eval()
        output = stage.method.predict(stage.model, batches[0])
        probabilities = output.fused.softmax(dim=1)
        assert probabilities.shape == (8, 3)
        assert torch.allclose(probabilities.sum(dim=1), torch.ones(8))
        assert set(output.unimodal) == {"audio", "visual"}
        assert all(value.shape == (8, 3) for value in output.unimodal.values())

    def test_a_network_rebuilt_from_its_description_predicts_the_same(self) -> None:
        stage = self.stage()
        _, batches = planned(stage)
        update(stage, batches[0])
        stage.model.eval()
        description = stage.model.describe()
        saved = json.loads(json.dumps(description, sort_keys=True))
        assert saved == description, "arguments of a head must be primitives, lists or mappings"
        other = MultimodalNetwork.from_description(saved)
        other.load_state_dict(stage.model.state_dict())
        other.eval()
        expected = stage.method.predict(stage.model, batches[1])
        actual = other(batches[1].inputs)
        torch.testing.assert_close(actual.fused, expected.fused)
        torch.testing.assert_close(actual.unimodal, expected.unimodal)

    def test_every_parameter_of_the_head_belongs_to_one_modality_or_to_none(self) -> None:
        head = self.stage().model.fusion
        groups = [*(head.head_parameters(name) for name in head.modalities), head.shared_parameters()]
        identities = [id(parameter) for group in groups for parameter in group]
        assert len(identities) == len(set(identities))
        assert set(identities) == {id(parameter) for parameter in head.parameters()}

    def test_three_modalities_train_or_are_refused_in_one_line(self) -> None:
        names = ("audio", "visual", "depth")
        if self.method.most_modalities is not None and self.method.most_modalities < len(names):
            message = _user_error(lambda: self.stage(names))
            assert self.method.name in message
            assert "depth" in message
            return
        stage = self.stage(names)
        _, batches = planned(stage)
        assert torch.isfinite(update(stage, batches[0]).total)

    def test_vectors_sequences_and_frozen_encoders_train_or_are_refused_in_one_line(self) -> None:
        for kind, encoder, frozen in (
            (VECTOR, "mlp", ()),
            (SEQUENCE, "transformer", ()),
            (VECTOR, "mlp", ("visual",)),
            (VECTOR, "mlp", ("audio", "visual")),
        ):

            def make(kind: str = kind, encoder: str = encoder, frozen: Sequence[str] = frozen) -> loop.Stage:
                data = tiny_data(kind=kind)
                return tiny_stage(self.method, self.settings, data=data, encoder=encoder, frozen=frozen)

            if self.method.interaction != "none":
                assert self.method.interaction in _user_error(make)
                continue
            stage = make()
            progress, batches = planned(stage)
            before = copy.deepcopy(stage.model.state_dict())
            assert torch.isfinite(update(stage, batches[0], 0).total)
            assert not not_finite(stage)
            moved = differing(before, stage.model.state_dict())
            assert moved
            assert not [name for name in moved if name.startswith(tuple(f"encoders.{item}." for item in frozen))]
            state = copy.deepcopy(loop.capture(stage, progress))
            expected = update(stage, batches[1], 1).total
            other = make()
            loop.restore(other, state)
            other.model.train()
            assert torch.equal(update(other, batches[1], 1).total, expected)

    def test_the_stated_cost_is_what_is_spent(self) -> None:
        stage = self.stage()
        before = stage.model.passes.totals()
        _, batches = planned(stage)
        planning = stage.model.passes.totals()
        cost, count = stage.method.cost(), len(stage.model.modalities)
        samples = len(stage.data.splits["train"])
        if not stage.method.needs_warmup and not cost.extra:
            assert planning[0] - before[0] == cost.refresh * count * samples
        for number, batch in enumerate(batches[:2]):
            update(stage, batch, number)
        trained = sum(len(batch.labels) for batch in batches[:2])
        forward, backward = stage.model.passes.totals()
        assert (forward - planning[0]) / (count * trained) == cost.forward
        assert (backward - planning[1]) / (count * trained) == cost.backward

    def test_unknown_options_are_refused_and_every_option_is_explained(self) -> None:
        message = _user_error(lambda: parse_options(self.method.name, self.method.Options, "no_such_option=1"))
        assert "no_such_option" in message
        assert all(": " in line for line in option_lines(self.method.Options))

    def test_it_says_what_it_is(self) -> None:
        assert self.method.name
        assert self.method.title
        assert self.method.citation
        assert self.method.__doc__


@torch.no_grad()
def _displacement(model: MultimodalNetwork, start: dict[str, Tensor]) -> Tensor:
    """Return the parameters minus ``start`` as one vector."""
    return torch.cat([(value - start[name]).flatten() for name, value in model.named_parameters()])


def _statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the running statistics of batch normalization from a network's state dict."""
    return {name: value for name, value in state.items() if "running_" in name}


def _user_error(action: Callable[[], object]) -> str:
    """Return the message of the UserError that ``action`` raises."""
    try:
        action()
    except UserError as error:
        return str(error)
    raise AssertionError("no UserError was raised")
