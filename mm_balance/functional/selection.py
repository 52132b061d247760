"""Which epoch's model is reported: one rule for all methods of a table. Pure functions of per-epoch records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def best_epoch(records: Sequence[Mapping[str, float]], key: str) -> int:
    """Position of the record with the largest ``key``; of equal ones the first: a longer run cannot win by a tie.

    Args:
        records: one mapping of metric name -> value per epoch, in order.
        key: the metric, larger is better. Records that lack it or hold NaN (a diverged epoch) never win.

    Returns:
        Index into ``records``, from 0.

    Raises:
        ValueError: no record has a number under ``key``.
    """
    candidates = [place for place, record in enumerate(records) if not math.isnan(record.get(key, math.nan))]
    if not candidates:
        raise ValueError(f"none of the {len(records)} records has a number under {key}")
    return max(candidates, key=lambda place: records[place][key])


def last(records: Sequence[Mapping[str, float]]) -> int:
    """Position of the last record.

    Raises:
        ValueError: there is none.
    """
    if not records:
        raise ValueError("there is no record to choose from")
    return len(records) - 1
