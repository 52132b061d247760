"""Model selection: the epoch to report, by one rule for all methods of a table. Pure functions of per-epoch records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def best_epoch(records: Sequence[Mapping[str, float]], key: str) -> int:
    """Return the position of the record with the largest ``key``; ties go to the first, so that a longer run cannot win by a tie.

    Args:
        records: one mapping of metric name -> value per epoch, in order.
        key: metric name; larger is better. Records without it or with NaN (a diverged epoch) are never chosen.

    Returns:
        Index into ``records``, from 0.

    Raises:
        ValueError: no record has a value for ``key``.
    """
    candidates = [index for index, record in enumerate(records) if not math.isnan(record.get(key, math.nan))]
    if not candidates:
        raise ValueError(f"none of the {len(records)} records has a value for {key}")
    return max(candidates, key=lambda index: records[index][key])


def last(records: Sequence[Mapping[str, float]]) -> int:
    """Return the position of the last record.

    Raises:
        ValueError: ``records`` is empty.
    """
    if not records:
        raise ValueError("there is no record to choose from")
    return len(records) - 1
