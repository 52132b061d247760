"""Keeping a shared head's gradient away from directions of features that were used already (MLA)."""

from __future__ import annotations

import torch
from torch import Tensor


def next_projection(projection: Tensor, mean_feature: Tensor, decay: float, kind: str) -> Tensor:
    """The projection after features around ``mean_feature`` were seen.

    ``rls``: recursive least squares, ``P - k k^T / (decay + r k)`` with ``k = P r``. ``rls_norm``: that, divided by its Frobenius
    norm. ``official``: as in the released code, where ``r k`` is a matrix by a slip of shapes (``k`` times ``r``) and the division
    elementwise; then the norm.

    Args:
        projection: ``(width, width)``.
        mean_feature: ``(width,)``, r.
        decay: > 0.
        kind: one of the three.
    """
    column = (projection @ mean_feature).unsqueeze(1)
    outer = column @ column.T
    if kind == "official":
        found = projection - outer / (decay + column @ mean_feature.unsqueeze(0))
    else:
        found = projection - outer / (decay + mean_feature @ column.squeeze(1))
    return found if kind == "rls" else found / torch.linalg.norm(found)
