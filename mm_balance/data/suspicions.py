"""What is suspicious about a data set though every file can be read: the same content in two splits, labels that look alike."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

SHOWN = 3
"""Pairs of samples in a warning."""
_HIDDEN = "\u200b\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""No width, no break; marks that change the direction of writing, by which a text can look like another."""


def duplicates_across_splits(
    samples: Sequence[str], splits: Sequence[str], contents: Mapping[str, Sequence[str]], order: Sequence[str]
) -> tuple[list[str], int]:
    """Find samples whose files also occur in an earlier split: a model can score on them by remembering.

    Args:
        samples: id of every sample.
        splits: its split.
        contents: modality -> digest of the content of its file, of every sample.
        order: the splits, those that are trained on first.

    Returns:
        One sentence per pair of splits, for samples with all files in common, and per modality that only some have in common; and the
        number of samples outside the first split that have anything in common with an earlier one.
    """
    whole = _first_of(list(zip(*contents.values(), strict=True)), samples, splits)
    parts = {modality: _first_of(values, samples, splits) for modality, values in contents.items()}
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    shared = set()
    for number, (sample, split) in enumerate(zip(samples, splits, strict=True)):
        for earlier in order[: order.index(split)]:
            key = tuple(values[number] for values in contents.values())
            if twin := whole.get((key, earlier)):
                found["", earlier, split].append(f"{sample} = {twin}")
                shared.add(sample)
                continue
            for modality, values in contents.items():
                if twin := parts[modality].get((values[number], earlier)):
                    found[modality, earlier, split].append(f"{sample} = {twin}")
                    shared.add(sample)
    sentences = [
        f"{len(pairs):,} sample(s) of {split} have {f'the same {modality}' if modality else 'the same files'} as samples of {earlier} "
        f"({_listed(pairs)}): their results are not those of unseen data"
        for (modality, earlier, split), pairs in sorted(found.items())
    ]
    return sentences, len(shared)


def contradicting_labels(
    samples: Sequence[str], labels: Sequence[str], contents: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return a sentence about samples with the same files and different labels, if there are any."""
    first: dict[tuple[str, ...], int] = {}
    pairs = []
    for number, key in enumerate(zip(*contents.values(), strict=True)):
        other = first.setdefault(key, number)
        if labels[other] != labels[number]:
            pairs.append(f"{samples[number]} ({labels[number]}) = {samples[other]} ({labels[other]})")
    return (
        [f"{len(pairs):,} sample(s) have the same files as one with another label ({_listed(pairs)})"] if pairs else []
    )


def labels_alike(labels: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """Yield pairs of labels that look alike, and whether nobody can see the difference (else they differ by case only).

    The difference cannot be seen if it is the Unicode form (one character, or a letter and its accent), the width of a character or of
    spaces, or a character of no width.
    """
    seen: dict[str, str] = {}
    by_case: dict[str, str] = {}
    for label in sorted(labels):
        form = _visible(label)
        if form in seen:
            yield seen[form], label, True
        elif form.casefold() in by_case:
            yield by_case[form.casefold()], label, False
        seen.setdefault(form, label)
        by_case.setdefault(form.casefold(), label)


def hidden_character(text: str) -> str:
    """Return the name of the first character in ``text`` that no word needs and nobody sees, as ``U+200B``; empty = there is none.

    The joiners that some languages write with are none of them.
    """
    return next(
        (f"U+{ord(item):04X}" for item in text if unicodedata.category(item) in ("Cc", "Zl", "Zp") or item in _HIDDEN),
        "",
    )


def _visible(label: str) -> str:
    """Return what a reader sees of a label."""
    form = unicodedata.normalize("NFKC", label)
    return " ".join("".join(item for item in form if unicodedata.category(item) not in ("Cc", "Cf")).split())


def _first_of(keys: Sequence[object], samples: Sequence[str], splits: Sequence[str]) -> dict[tuple[object, str], str]:
    """Return content and split -> the first sample of them."""
    first: dict[tuple[object, str], str] = {}
    for key, sample, split in zip(keys, samples, splits, strict=True):
        first.setdefault((key, split), sample)
    return first


def _listed(pairs: Sequence[str]) -> str:
    return ", ".join(pairs[:SHOWN]) + (", ..." if len(pairs) > SHOWN else "")
