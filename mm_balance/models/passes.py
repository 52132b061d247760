"""Counts samples that pass through encoders, to measure what methods cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class PassCounter:
    """Number of samples through the encoders, forward and backward, per modality. Counted on the host, without device syncs.

    Copies of a network share its counter.
    """

    def __init__(self) -> None:
        self.forward: dict[str, int] = {}
        self.backward: dict[str, int] = {}
        self._on = True

    def __deepcopy__(self, memo: dict[int, Any]) -> PassCounter:
        return self

    def watch(self, modality: str, features: Tensor) -> None:
        """Count the forward pass of ``modality`` that produced ``features``, and every backward pass through them."""
        if not self._on:
            return
        samples = len(features)
        self.forward[modality] = self.forward.get(modality, 0) + samples
        if features.requires_grad:
            features.register_hook(lambda gradient: self._count_backward(modality, samples))

    def _count_backward(self, modality: str, samples: int) -> None:
        self.backward[modality] = self.backward.get(modality, 0) + samples

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend counting, for passes that only measure."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def totals(self) -> tuple[int, int]:
        """Return the numbers of forward and backward passes, summed over modalities."""
        return sum(self.forward.values()), sum(self.backward.values())

    def state_dict(self) -> dict[str, dict[str, int]]:
        return {"forward": dict(self.forward), "backward": dict(self.backward)}

    def load_state_dict(self, state: dict[str, dict[str, int]]) -> None:
        self.forward, self.backward = dict(state["forward"]), dict(state["backward"])
