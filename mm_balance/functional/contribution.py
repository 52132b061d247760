"""What each modality contributes to a score: coalitions and Shapley values. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial

Coalition = frozenset[str]


def subsets(modalities: Sequence[str]) -> Iterator[Coalition]:
    """All subsets, the empty one first."""
    for size in range(len(modalities) + 1):
        yield from (frozenset(members) for members in combinations(modalities, size))


def shapley_values(worth: Mapping[Coalition, float]) -> dict[str, float]:
    """Shapley value of each modality: its mean gain over all orders in which modalities can join.

    ``phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S))``; they sum to v(all) - v(none).

    Args:
        worth: v, for every subset of the modalities.

    Raises:
        ValueError: a subset is missing.
    """
    everyone = max(worth, key=len)
    missing = [set(members) for members in subsets(sorted(everyone)) if members not in worth]
    if missing:
        raise ValueError(f"no value for the coalition(s) {missing}")
    count = len(everyone)
    values = {}
    for modality in everyone:
        others = [name for name in everyone if name != modality]
        values[modality] = sum(
            factorial(len(members))
            * factorial(count - len(members) - 1)
            / factorial(count)
            * (worth[members | {modality}] - worth[members])
            for members in subsets(others)
        )
    return values


def shapley_shares(modalities: Sequence[str]) -> dict[str, dict[Coalition, float]]:
    """How a modality's Shapley value is made of the worths of coalitions: modality -> coalition -> factor.

    The empty coalition is left out: it is worth nothing here.
    """
    found = {}
    for modality in modalities:
        chosen = dict.fromkeys(subsets(modalities), 0.0)
        for members in chosen:
            chosen[members] = shapley_values({other: float(other == members) for other in chosen})[modality]
        found[modality] = {members: share for members, share in chosen.items() if members}
    return found
