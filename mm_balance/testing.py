"""What every method must keep to, as tests that anybody's method can inherit.

    from mm_balance.testing import MethodConformance

    class TestMine(MethodConformance):
        method = Mine

Run by pytest, on a CPU, in seconds. ``tiny_data`` and ``tiny_stage`` are there for a method's own tests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mm_balance.data import BatchLoader, MultimodalData, Split
from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.engine.step import Stepper, build_optimizer
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import Method, option_lines, parse_options
from mm_balance.methods.options import complete
from mm_balance.models import MultimodalNetwork
from mm_balance.seeding import seed_everything
from mm_balance.types import Batch, InputSpec, Objective

CPU = torch.device("cpu")
FIRST_EPOCH = 2
"""Epochs that count as finished before a tiny stage begins."""


def tiny_data(
    modalities: Sequence[str] = ("audio", "visual"), classes: int = 3, train: int = 40, seed: int = 0
) -> MultimodalData:
    """Noise that carries the class in every modality, clearest in the first, small enough for milliseconds."""
    generator = torch.Generator().manual_seed(seed)

    def split(name: str, samples: int) -> Split:
        labels = torch.arange(samples) % classes
        inputs = {
            modality: torch.randn(samples, 1, 8, 8, generator=generator)
            + labels.view(-1, 1, 1, 1) * (1.0 - 0.4 * place)
            for place, modality in enumerate(modalities)
        }
        corrupted = [modalities[index % 2] if name == "train" and index % 5 == 0 else "" for index in range(samples)]
        return Split(name, inputs, labels, [f"{name}-{index}" for index in range(samples)], corrupted)

    splits = {name: split(name, samples) for name, samples in (("train", train), ("val", 12), ("test", 12))}
    return MultimodalData(
        name="tiny",
        classes=tuple(str(index) for index in range(classes)),
        specs={name: InputSpec("image", (1, 8, 8), (0.8,), (1.2,)) for name in modalities},
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
    fusion: str = "concat",
) -> loop.Stage:
    """A stage of ``method`` on ``tiny_data``, seed 0, learning rate 0.05 falling to 0. ``settings`` = options by name."""
    data = (data or tiny_data()).with_held_out(method.held_out, seed=0)
    seed_everything(0)
    chosen = method(complete(method.Options, settings or {}), tuple(data.specs), len(data.splits["train"]))
    model = MultimodalNetwork(
        data.specs,
        len(data.classes),
        encoder="resnet_narrow",
        fusion=chosen.head(fusion),
        interaction=chosen.interaction,
    )

    def stepper(network: nn.Module) -> Stepper:
        made = build_optimizer(optimizer, network.parameters(), learning_rate=0.05, momentum=0.9, weight_decay=1e-4)
        return Stepper(made, CPU, "float32")

    chosen.prepare(model)
    return loop.Stage(
        model=model, method=chosen, stepper=stepper(model), data=data, device=CPU, batch_size=8, seed=3,
        epochs=epochs, refit_every=refit_every, mixture="two", learning_rate=lambda clock: 0.05 * (1 - clock.fraction),
        title="test", new_stepper=stepper,
    )  # fmt: skip


def first_progress(stage: loop.Stage) -> loop.Progress:
    """Where a tiny stage begins: as after a warm-up, with a fit."""
    return loop.Progress(first_epoch=FIRST_EPOCH, refit=loop._refit(stage, FIRST_EPOCH))


def planned(stage: loop.Stage) -> tuple[loop.Progress, list[Batch]]:
    """The stage before its first update: planned, in training mode, with the batches of its first epoch."""
    progress = first_progress(stage)
    loop.plan_epoch(stage, progress, clock_of(stage), lambda: False)
    stage.model.train()
    loader = BatchLoader(stage.data.splits["train"], stage.batch_size, seed=stage.seed)
    plan = progress.plan
    return progress, list(loader.epoch(FIRST_EPOCH, CPU, samples=plan.samples, present=plan.present))


def clock_of(stage: loop.Stage) -> loop.Clock:
    """The clock in the first epoch of a tiny stage."""
    return loop.Clock(FIRST_EPOCH, 0, stage.epochs)


def update(stage: loop.Stage, batch: Batch, number: int = 0) -> Objective:
    """One update of the first epoch, the batch's place in it given."""
    return stage.method.update(stage.model, batch, stage.stepper, loop.Clock(FIRST_EPOCH, 0, stage.epochs, number, 5))


class MethodConformance:
    """Inherit, and set ``method``.

    Attributes:
        method: the class under test.
        settings: options that differ from their defaults.
        still: parameters that may stay as they are in the first updates: a name's beginnings.
    """

    method: ClassVar[type[Method]]
    settings: ClassVar[dict[str, Any]] = {}
    still: ClassVar[tuple[str, ...]] = ()

    def stage(self, modalities: Sequence[str] = ("audio", "visual"), **extra: Any) -> loop.Stage:
        return tiny_stage(self.method, self.settings, data=tiny_data(modalities), **extra)

    def test_two_updates_are_finite_and_move_the_parameters(self) -> None:
        stage = self.stage()
        _, batches = planned(stage)
        before = {name: value.detach().clone() for name, value in stage.model.named_parameters()}
        for number, batch in enumerate(batches[:2]):
            objective = update(stage, batch, number)
            assert torch.isfinite(objective.total)
            assert all(torch.isfinite(value) and not value.requires_grad for value in objective.parts.values())
            torch.testing.assert_close(
                torch.stack(list(objective.parts.values())).sum(), objective.total.detach(), rtol=1e-4, atol=1e-5
            )
        after = dict(stage.model.named_parameters())
        assert all(bool(torch.isfinite(value).all()) for value in after.values())
        unread = [f"encoders.{name}." for name in stage.model.modalities if name not in stage.model.fusion.uses]
        expected = [name for name in before if not name.startswith((*self.still, *unread))]
        moved = [name for name in expected if not torch.equal(before[name], after[name])]
        assert len(moved) > 0.9 * len(expected), sorted(set(expected) - set(moved))

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
        asked = iter(range(10**9))
        with suppress(Interrupted):
            loop.fit(stopped, first_progress(stopped), recorder, lambda: next(asked) >= 13)
        assert recorder.state is not None
        other = self.stage(epochs=3, refit_every=1)
        progress = loop.restore(other, copy.deepcopy(recorder.state))
        loop.fit(other, progress, ListRecorder(), lambda: False)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name

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
        other = MultimodalNetwork.from_description(stage.model.describe())
        other.load_state_dict(stage.model.state_dict())
        other.eval()
        expected = stage.method.predict(stage.model, batches[1])
        found = other(batches[1].inputs)
        torch.testing.assert_close(found.fused, expected.fused)
        torch.testing.assert_close(found.unimodal, expected.unimodal)

    def test_three_modalities_train_or_are_refused_in_one_line(self) -> None:
        names = ("audio", "visual", "depth")
        if self.method.most_modalities is not None and self.method.most_modalities < len(names):
            told = _refusal(lambda: self.stage(names))
            assert self.method.name in told
            assert "depth" in told
            return
        stage = self.stage(names)
        _, batches = planned(stage)
        assert torch.isfinite(update(stage, batches[0]).total)

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
        shown = sum(len(batch.labels) for batch in batches[:2])
        forward, backward = stage.model.passes.totals()
        assert (forward - planning[0]) / (count * shown) == cost.forward
        assert (backward - planning[1]) / (count * shown) == cost.backward

    def test_unknown_options_are_refused_and_every_option_is_explained(self) -> None:
        told = _refusal(lambda: parse_options(self.method.name, self.method.Options, "no_such_option=1"))
        assert "no_such_option" in told
        assert all(": " in line for line in option_lines(self.method.Options))

    def test_it_says_what_it_is(self) -> None:
        assert self.method.name
        assert self.method.title
        assert self.method.citation
        assert self.method.__doc__


def _refusal(action: Callable[[], object]) -> str:
    """What ``action`` says when it refuses."""
    try:
        action()
    except UserError as error:
        return str(error)
    raise AssertionError("it was not refused")
