"""Projection that keeps gradients of a shared head orthogonal to features it was already trained on (MLA)."""

from __future__ import annotations

import torch
from torch import Tensor


def next_projection(projection: Tensor, mean_feature: Tensor, decay: float, kind: str) -> Tensor:
    """Update the projection after a batch of features with mean ``mean_feature``.

    ``rls``: recursive least squares, ``P - k k^T / (decay + r k)`` with ``k = P r``. ``rls_norm``: the same, divided by its
    Frobenius norm. ``official``: as in the released code, where a shape mistake makes ``r k`` a matrix (``k`` times ``r``) and the
    division elementwise; then divided by the norm.

    Args:
        projection: ``(width, width)``.
        mean_feature: ``(width,)``, r.
        decay: > 0.
        kind: ``rls``, ``rls_norm`` or ``official``.
    """
    column = (projection @ mean_feature).unsqueeze(1)
    outer = column @ column.T
    if kind == "official":
        updated = projection - outer / (decay + column @ mean_feature.unsqueeze(0))
    else:
        updated = projection - outer / (decay + mean_feature @ column.squeeze(1))
    return updated if kind == "rls" else updated / torch.linalg.norm(updated)
