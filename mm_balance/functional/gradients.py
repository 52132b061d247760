"""Combining the multimodal and the unimodal gradient of one encoder (MMPareto). Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SOLVER_EDGE = 0.001
"""Weight the official solver gives the longer gradient if one of the two has the least norm by itself."""


def min_norm_weight(joint: Tensor, own: Tensor) -> Tensor:
    """Return the weight a that minimizes the norm of ``a joint + (1 - a) own``, in [0.001, 0.999].

    Args:
        joint: ``(n,)``.
        own: ``(n,)``.
    """
    product, joint_square, own_square = joint @ own, joint @ joint, own @ own
    inner = (own_square - product) / (joint - own).square().sum().clamp_min(1e-30)
    inner = torch.where(product >= own_square, torch.full_like(inner, SOLVER_EDGE), inner)
    return torch.where(product >= joint_square, torch.full_like(inner, 1 - SOLVER_EDGE), inner)


def pareto_gradients(joint: Sequence[Tensor], own: Sequence[Tensor], gamma: float, *, scope: str) -> list[Tensor]:
    """Return the combined gradient of an encoder.

    Aligned gradients (positive cosine over the whole encoder) are added; conflicting ones are combined with the least norm. The
    result is rescaled to be at least as long as the plain sum, then multiplied by gamma.

    Args:
        joint: gradients of the joint loss, one tensor per parameter; none = there is nothing to combine.
        own: gradients of the modality's own loss.
        gamma: scale of the result.
        scope: unit in which lengths are compared: ``tensor`` (the official code) or ``encoder``.
    """
    if not joint:  # an encoder that is not trained
        return []
    flat_joint, flat_own = (torch.cat([value.flatten() for value in side]).double() for side in (joint, own))
    weight = torch.where(flat_joint @ flat_own > 0, 0.5, min_norm_weight(flat_joint, flat_own)).to(joint[0].dtype)
    combined = [2 * weight * one + 2 * (1 - weight) * other for one, other in zip(joint, own, strict=True)]
    sums = [one + other for one, other in zip(joint, own, strict=True)]
    if scope == "encoder":
        stretch = _norm(sums) / _norm(combined).clamp_min(1e-30)
        return [gamma * stretch.clamp_min(1.0) * value for value in combined]
    return [
        gamma * (plain.norm() / value.norm().clamp_min(1e-30)).clamp_min(1.0) * value
        for plain, value in zip(sums, combined, strict=True)
    ]


def _norm(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.norm() for part in parts]).norm()
