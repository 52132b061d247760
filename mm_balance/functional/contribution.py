"""Contribution of each modality to a score: coalitions and Shapley values. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial

Coalition = frozenset[str]


def subsets(modalities: Sequence[str]) -> Iterator[Coalition]:
    """Yield all subsets, the empty one first."""
    for size in range(len(modalities) + 1):
        yield from (frozenset(members) for members in combinations(modalities, size))


def shapley_values(worth: Mapping[Coalition, float]) -> dict[str, float]:
    """Compute the Shapley value of each modality: its mean gain over all orders in which modalities can join.

    ``phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S))``; they sum to v(all) - v(none).

    Args:
        worth: v, for every subset of the modalities.

    Raises:
        ValueError: a subset is missing.
    """
    all_modalities = max(worth, key=len)
    missing = [set(members) for members in subsets(sorted(all_modalities)) if members not in worth]
    if missing:
        raise ValueError(f"no value for the coalition(s) {missing}; pass one for every subset")
    count = len(all_modalities)
    values = {}
    for modality in all_modalities:
        others = [name for name in all_modalities if name != modality]
        values[modality] = sum(
            factorial(len(members))
            * factorial(count - len(members) - 1)
            / factorial(count)
            * (worth[members | {modality}] - worth[members])
            for members in subsets(others)
        )
    return values


def shapley_shares(modalities: Sequence[str]) -> dict[str, dict[Coalition, float]]:
    """Return the factors of coalition worths in the Shapley values: modality -> coalition -> factor.

    The empty coalition is omitted, because its worth is 0 here.
    """
    shares = {}
    for modality in modalities:
        factors = dict.fromkeys(subsets(modalities), 0.0)
        for members in factors:
            factors[members] = shapley_values({other: float(other == members) for other in factors})[modality]
        shares[modality] = {members: factor for members, factor in factors.items() if members}
    return shares
