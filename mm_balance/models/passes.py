"""How often samples go through encoders: what methods cost, counted where it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class PassCounter:
    """Samples that went through encoders, forward and backward, per modality. Host numbers: counting never waits for a GPU.

    A network that is copied counts with its copies.
    """

    def __init__(self) -> None:
        self.forward: dict[str, int] = {}
        self.backward: dict[str, int] = {}
        self._on = True

    def __deepcopy__(self, memo: dict[int, Any]) -> PassCounter:
        return self

    def watch(self, modality: str, features: Tensor) -> None:
        """Count a forward pass of ``modality`` that gave ``features``, and each backward pass that will reach them."""
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
        """What only measures is not counted."""
        before, self._on = self._on, False
        try:
            yield
        finally:
            self._on = before

    def totals(self) -> tuple[int, int]:
        """All forward and all backward passes, summed over modalities."""
        return sum(self.forward.values()), sum(self.backward.values())

    def state_dict(self) -> dict[str, dict[str, int]]:
        return {"forward": dict(self.forward), "backward": dict(self.backward)}

    def load_state_dict(self, state: dict[str, dict[str, int]]) -> None:
        self.forward, self.backward = dict(state["forward"]), dict(state["backward"])
