"""Losses that limit the influence of samples with a wrong label or broken inputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def generalized_cross_entropy(logits: Tensor, labels: Tensor, power: float) -> Tensor:
    """Compute ``(1 - p_y^q) / q`` per sample, in float32 even under autocast; the limit q -> 0 is the cross-entropy.

    Source: Zhang & Sabuncu, NeurIPS 2018, arXiv 1805.07836, Eq. 6, without truncation.

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)`` int64.
        power: q in (0, 1]; 1 = ``1 - p_y``.

    Returns:
        ``(batch,)`` in [0, 1 / q].

    Raises:
        ValueError: q outside (0, 1].
    """
    if not 0 < power <= 1:
        raise ValueError(f"power is {power}; give one in (0, 1]")
    with torch.autocast(logits.device.type, enabled=False):
        cross_entropy = functional.cross_entropy(logits.float(), labels, reduction="none")
        # From log p_y, because p_y^q has an infinite slope where p_y underflows to 0.
        return -torch.expm1(-power * cross_entropy) / power
