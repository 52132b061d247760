"""What the callbacks share: predicting all samples without disturbing the training, fitting the mixture, keeping the posterior."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mm_balance.engine.checkpoint import gap_fit_from_state, gap_fit_to_state
from mm_balance.functional.mixture import KINDS
from mm_balance.measuring import Measured, measure, measured_from
from mm_balance.seeding import random_state, restore_random_state

LogitsOf = Callable[[Any, Any], tuple]
"""(model, batch on its device) -> unimodal logits by modality, labels, sample ids, and, if there are any, fused logits."""


class GapSurveys:
    """Every few epochs: predict all samples, fit the mixture to their gaps, and keep the posterior for the training step.

    Args:
        logits: called as ``logits(model, batch)`` in eval mode without gradients. Returns modality -> ``(batch, classes)`` unimodal
            logits, ``(batch,)`` labels (or multi-hot, ``(batch, classes)``) and ``(batch,)`` sample ids, and may return
            ``(batch, classes)`` fused logits as a fourth item.
        loader: batches of all training samples, each once. Give a loader of its own: no shuffling, no augmentation, no
            ``drop_last``, no sampler that splits samples among processes.
        validation: the same of validation samples; only for what is logged. None = there are none.
        every: epochs between two surveys, 1 or more.
        start: epochs of warm-up before the first survey, 0 or more.
        kind: mixture, ``two``, ``two_absolute`` or ``three``.

    Attributes:
        measured: the latest survey of the training samples, its ``epoch`` the epochs finished; None = there was none yet.
        validation_measured: the same of the validation samples.

    Raises:
        ValueError: ``every``, ``start`` or ``kind`` is none of the above.
    """

    def __init__(
        self,
        logits: LogitsOf,
        loader: Iterable,
        *,
        validation: Iterable | None = None,
        every: int = 1,
        start: int = 1,
        kind: str = "two",
    ) -> None:
        super().__init__()
        if every < 1 or start < 0:
            raise ValueError(f"every={every} must be 1 or more, start={start} 0 or more epochs")
        if kind not in KINDS:
            raise ValueError(f"kind={kind} is not known; give one of {', '.join(KINDS)}")
        self.logits = logits
        self.loader = loader
        self.validation = validation
        self.every = every
        self.start = start
        self.kind = kind
        self.measured: Measured | None = None
        self.validation_measured: Measured | None = None

    def posterior_imbalanced(self, samples: Tensor | Iterable[object]) -> Tensor:
        """Return the posterior of some training samples by id, for ``adaptive_loss``: ``(batch,)`` float32, on their device.

        Raises:
            ValueError: there was no survey yet, or it lacks a sample.
        """
        return self._latest().posterior_of(samples)

    @property
    def balanced_mean(self) -> float:
        """Mean of the balanced component at the latest survey, for ``adaptive_loss``. Raises ValueError if there was none yet."""
        return self._latest().balanced_mean

    def _latest(self) -> Measured:
        if self.measured is None:
            raise ValueError(
                f"there was no survey yet (the first one comes after {self.start} epochs): until then, while .measured is None, train "
                "with the loss of a warm-up"
            )
        return self.measured

    def _is_due(self, epoch: int) -> bool:
        """Whether to survey after ``epoch`` epochs: at the intervals, and as soon as possible if there is no survey to train with."""
        return epoch >= self.start and (self.measured is None or (epoch - self.start) % self.every == 0)

    def _survey(self, model: nn.Module, epoch: int, to_device: Callable[[Any], Any]) -> None:
        if self.measured is not None and self.measured.epoch == epoch:
            return
        self.measured = replace(survey(model, self.loader, self.logits, to_device, kind=self.kind), epoch=epoch)
        if self.validation is not None:
            found = survey(model, self.validation, self.logits, to_device, kind=self.kind)
            self.validation_measured = replace(found, epoch=epoch)

    def _forget(self) -> None:
        """Begin a new training."""
        self.measured = self.validation_measured = None

    def _state(self) -> dict[str, Any]:
        """Return the surveys as tensors and primitives."""
        kept = {"training": self.measured, "validation": self.validation_measured}
        return {
            name: None if item is None else {"fit": gap_fit_to_state(item), "samples": list(item.samples)}
            for name, item in kept.items()
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        restored = {
            name: None if item is None else measured_from(gap_fit_from_state(item["fit"]), item["samples"])
            for name, item in state.items()
        }
        self.measured, self.validation_measured = restored["training"], restored["validation"]


@torch.no_grad()
def survey(
    model: nn.Module, loader: Iterable, logits: LogitsOf, to_device: Callable[[Any], Any], *, kind: str = "two"
) -> Measured:
    """Predict every sample of ``loader`` in eval mode, and measure the gaps. Modes and random states are as before afterwards.

    Args:
        model: the network.
        loader: batches of all samples.
        logits: see ``GapSurveys``.
        to_device: moves a batch to the network's device.
        kind: mixture.

    Raises:
        ValueError: there is no batch; ``logits`` returns something else than it should; what ``measure`` refuses.
    """
    with _undisturbed(model, loader):
        model.eval()
        batches = [_taken(logits(model, to_device(batch))) for batch in loader]
    if not batches:
        raise ValueError("the loader of the survey has no batch")
    parts, labels, samples, fused = zip(*batches, strict=True)
    return measure(
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]},
        torch.cat(labels),
        [sample for batch in samples for sample in batch],
        fused=torch.cat(fused) if fused[0] is not None else None,
        kind=kind,
    )


def _taken(returned: Any) -> tuple[dict[str, Tensor], Tensor, list, Tensor | None]:
    """Return logits, labels, sample ids and fused logits of a batch on the CPU."""
    if not isinstance(returned, tuple) or len(returned) not in (3, 4) or not isinstance(returned[0], Mapping):
        raise ValueError(
            "logits(model, batch) must return a tuple of logits by modality, labels and sample ids, and may return fused logits as "
            f"the fourth item; got {_described(returned)}"
        )
    logits, labels, samples, *fused = returned
    ids = samples.tolist() if isinstance(samples, Tensor) else list(samples)
    return {name: values.cpu() for name, values in logits.items()}, labels.cpu(), ids, fused[0].cpu() if fused else None


def _described(value: Any) -> str:
    name = type(value).__name__
    return f"{name} of {', '.join(type(item).__name__ for item in value)}" if isinstance(value, tuple) else name


@contextmanager
def _undisturbed(model: nn.Module, loader: Iterable) -> Iterator[None]:
    """Restore the mode of every module, the global generators, and those of the loader, which even an orderly one draws from."""
    modes = [(module, module.training) for module in model.modules()]
    holders = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    generators = {item for holder in holders if isinstance(item := getattr(holder, "generator", None), torch.Generator)}
    states = [(generator, generator.get_state()) for generator in generators]
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
        for generator, state in states:
            generator.set_state(state)
        for module, mode in modes:
            module.training = mode


def active_run_id() -> str | None:
    """Return the id of the active MLflow run; None = there is none, as in a script that has not even imported MLflow."""
    if "mlflow" not in sys.modules:
        return None
    from mm_balance.tracking.active import active_run_id

    return active_run_id()
