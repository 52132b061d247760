"""Joint training: the fused cross-entropy alone.

Source: arXiv 2510.21797v1, Eq. 5 (fused term) and Table 1, row "Baseline (Concat)". The name is the field's; the method
works with any ``fusion``. Deviations: none.
"""

from mm_balance.methods.base import Method


class Concat(Method):
    """Joint training without support for the weaker modality."""

    name = "concat"
    title = "joint training"
    citation = "arXiv 2510.21797v1, Table 1, baseline"
    several_classes = True
