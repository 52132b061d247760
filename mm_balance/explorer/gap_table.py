"""The table of a gap fit, ``gaps.parquet``: one row per sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from mm_balance.types import GapFit


def gap_table(refit: GapFit, samples: Sequence[str], corrupted: Sequence[str] | None) -> pd.DataFrame:
    """Return one row per sample of the split: measured probabilities and gap, and the posterior of the mixture.

    Columns: index, sample, label (the class number; of multi-hot labels the numbers of the true classes as a text that is split at the
    spaces, ``0 3``, which CSV, Parquet and pandas keep alike), ``p_<modality>``, p_fused, gap, posterior_imbalanced, for methods that
    doubt ``doubt_<modality>``, and, where known, ``corrupted`` (the deliberately corrupted modality, empty = clean).
    """
    table = pd.DataFrame({"index": np.arange(len(samples)), "sample": list(samples), "label": _labels(refit.labels)})
    for modality, probability in refit.probabilities.items():
        table[f"p_{modality}"] = probability.numpy()
    table["p_fused"] = refit.fused_probability.numpy()
    table["gap"] = refit.gaps.numpy()
    table["posterior_imbalanced"] = refit.posterior_imbalanced.numpy()
    for modality, doubt in refit.doubts.items():
        table[f"doubt_{modality}"] = doubt.numpy()
    if corrupted is not None:
        table["corrupted"] = list(corrupted)
    return table


def _labels(labels: Tensor) -> np.ndarray | list[str]:
    if labels.ndim == 1:
        return labels.numpy()
    return [" ".join(map(str, np.flatnonzero(row))) for row in labels.numpy()]
