"""Where the training samples' gaps come from (``gap_source``): the network itself, what training saw, or copies that never saw them.

``refit``: the network after the epoch, in eval mode (the paper's). It has trained on these samples, so late gaps are memorized.
``running``: running means of the probabilities of the epochs' own forward passes, in training mode: no extra pass.
``cross_fitted``: per fold, a copy trained from new weights on the other folds. Ours; as in confident learning, arXiv 1911.00068.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mm_balance.functional.adaptive import warmup_loss
from mm_balance.functional.discount import UNSEEN, running_mean
from mm_balance.functional.gap import true_class_probability
from mm_balance.models import MultimodalNetwork
from mm_balance.types import Batch, GapFit, Output

DECAY = 0.7
"""Decay of the running means, per epoch."""
FOLDS = 4
"""Folds of cross-fitting."""


@dataclass
class SeenProbabilities:
    """True-class probabilities that training saw: one row per modality, and one for the fused prediction.

    Attributes:
        modalities: names of the rows, all but the last.
        running: ``(modalities + 1, samples)`` float64, running means over epochs; ``UNSEEN`` = never seen.
        latest: the same shape, of the current epoch; ``UNSEEN`` = not yet.
    """

    modalities: tuple[str, ...]
    running: Tensor
    latest: Tensor

    @classmethod
    def none_yet(cls, modalities: Sequence[str], samples: int, device: torch.device) -> SeenProbabilities:
        """Return the state before training: nothing seen."""
        empty = torch.full((len(modalities) + 1, samples), UNSEEN, dtype=torch.float64, device=device)
        return cls(tuple(modalities), empty, empty.clone())

    @torch.no_grad()
    def record(self, output: Output, batch: Batch) -> None:
        """Remember the probabilities of a batch's forward pass; a modality that a sample was shown without is left out.

        A sample that is shown several times in an epoch counts once, on a CPU with the last time. Values that are not finite, as
        in a step that overflows under float16, are left out.
        """
        every_sample = torch.ones_like(batch.index, dtype=torch.bool)
        shown = [batch.present.get(name, every_sample) for name in self.modalities]
        masks = [*shown, torch.stack(shown).all(dim=0)]
        logits_of_rows = [*(output.unimodal[name] for name in self.modalities), output.fused]
        for row, (logits, present) in enumerate(zip(logits_of_rows, masks, strict=True)):
            probability = true_class_probability(logits.detach().double(), batch.labels)
            kept = torch.where(present & probability.isfinite(), probability, self.latest[row, batch.index])
            self.latest[row, batch.index] = kept

    def end_epoch(self) -> None:
        """Take the epoch's probabilities into the running means. A sample that it did not show keeps its mean."""
        self.running = running_mean(self.running, self.latest, DECAY)
        self.latest = torch.full_like(self.latest, UNSEEN)

    @property
    def complete(self) -> bool:
        """Whether every sample was seen with every modality. One host sync."""
        return bool((self.running >= 0).all())

    def filled(self, otherwise: GapFit | None) -> Tensor:
        """Return the running means, and for what was never seen the probabilities of ``otherwise`` (None only if ``complete``).

        Returns:
            ``(modalities + 1, samples)`` float64 on the CPU.
        """
        running = self.running.cpu()
        if otherwise is None:
            return running
        unimodal = [otherwise.probabilities[name] for name in self.modalities]
        fallback = torch.stack([*unimodal, otherwise.fused_probability])
        return torch.where(running < 0, fallback.double(), running)

    def to_state(self) -> dict[str, Any]:
        """Convert to tensors and primitives, for a checkpoint."""
        return {"modalities": list(self.modalities), "running": self.running, "latest": self.latest}

    @classmethod
    def from_state(cls, state: dict[str, Any] | None, device: torch.device) -> SeenProbabilities | None:
        """Invert ``to_state``; None = nothing was saved."""
        if state is None:
            return None
        return cls(tuple(state["modalities"]), state["running"].to(device), state["latest"].to(device))


def loss_of_copies(network: MultimodalNetwork, batch: Batch) -> Tensor:
    """Loss of the copies of cross-fitting, whatever the method: the control's, fused plus unimodal cross-entropies."""
    output = network(batch.inputs)
    return warmup_loss(output.fused, output.unimodal, batch.labels, unimodal_weight=1.0).total
