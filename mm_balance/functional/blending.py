"""Loss weights from the ratio of generalization to overfitting (G-Blending). Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

OVERFITTING_FLOOR = 1e-6
"""Lower bound of the squared overfitting; without it, a loss that does not overfit would get all the weight."""


def blending_weights(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Compute the weights ``w_k = (G_k / O_k^2) / Z``, which sum to 1.

    G is the decrease of the held-out loss (negative counts as 0), O the increase of held-out minus training loss. If nothing
    generalizes, all weights are equal. Both guards are ours.

    Args:
        before: head -> its mean held-out and training loss at the start.
        after: the same after training with only that head's loss.
    """
    ratios = {}
    for name, (held_out, train) in before.items():
        later_held_out, later_train = after[name]
        gain = max(held_out - later_held_out, 0.0)
        overfitting = (later_held_out - later_train) - (held_out - train)
        ratios[name] = gain / max(overfitting**2, OVERFITTING_FLOOR)
    total = sum(ratios.values())
    return {name: value / total if total > 0 else 1 / len(ratios) for name, value in ratios.items()}
