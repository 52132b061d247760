"""Joint training: the fused cross-entropy alone.

Source: arXiv 2510.21797v1, Eq. 5 (fused term) and Table 1, row "Baseline (Concat)". Despite the name, which is the
field's, it follows whatever ``fusion`` is set to. Deviations: none.
"""

from mm_balance.methods.base import Method


class Concat(Method):
    """Joint training with no help for the weaker modality."""

    name = "concat"
    title = "joint training"
    citation = "arXiv 2510.21797v1, Table 1, baseline"
