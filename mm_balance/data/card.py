"""The data card of a prepared set: what is in it, in numbers, as markdown."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SPLITS = ("train", "val", "test")
SHOWN_KINDS = 8
"""Sampling rates or frame sizes that are listed."""
SHOWN_LINES = 50
"""Skipped or excluded clips that are listed."""


@dataclass(frozen=True)
class CardSample:
    """What the card counts of one sample, by modality where a modality has it.

    Attributes:
        seconds: length of the file.
        rate: sampling rate of sounds, Hz.
        size: width and height of the original pictures, pixels.
        frames: stored frames.
    """

    split: str
    label: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    rate: Mapping[str, int] = field(default_factory=dict)
    size: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    frames: Mapping[str, int] = field(default_factory=dict)


def data_card(
    name: str,
    samples: Sequence[CardSample],
    *,
    recipe: str,
    digest: str,
    source: str,
    lists: Mapping[str, str],
    notes: Sequence[str],
    excluded: Sequence[str],
    skipped: Sequence[str],
) -> str:
    """The card.

    Args:
        samples: of all splits.
        recipe: what was done to the files, in a line.
        digest: of the data.
        source: where they come from.
        lists: published list -> SHA-256.
        notes: what one should know.
        excluded: one line per clip that the data set's own recipe leaves out.
        skipped: one line per clip that could not be used.
    """
    parts = [
        f"# {_plain(name)}\n\n{_plain(source)}\n",
        f"- digest: `{digest}`\n- recipe: {_plain(recipe)}\n",
        "## Samples\n",
        *_classes(samples),
        "## Files\n",
        *_durations(samples),
        *_kinds("sampling rate", "Hz", samples, lambda sample: sample.rate),
        *_kinds("picture", "pixels", samples, lambda sample: {m: f"{w} x {h}" for m, (w, h) in sample.size.items()}),
        *_kinds("frames stored", "frames", samples, lambda sample: sample.frames),
    ]
    if lists:
        rows = [f"| {_plain(file)} | `{found}` |" for file, found in lists.items()]
        parts.append("\n".join(["## Lists\n", "| list | SHA-256 |", "|---|---|", *rows, ""]))
    parts += (
        _lines("Notes", notes) + _lines("Left out by the data set's own recipe", excluded) + _lines("Skipped", skipped)
    )
    return "\n".join(parts)


def _classes(samples: Sequence[CardSample]) -> list[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        counts[sample.label][sample.split] += 1
    totals = Counter(sample.split for sample in samples)
    rows = [
        f"| {_plain(label)} | " + " | ".join(f"{found[split]:,}" for split in SPLITS) + f" | {found.total():,} |"
        for label, found in sorted(counts.items())
    ]
    rows.append(
        "| **all** | " + " | ".join(f"**{totals[split]:,}**" for split in SPLITS) + f" | **{totals.total():,}** |"
    )
    table = "\n".join(["| class | train | val | test | all |", "|---|--:|--:|--:|--:|", *rows, ""])
    trained = [found["train"] for found in counts.values() if found["train"]]
    if not trained:
        return [table]
    return [table, f"Largest training class over smallest: {max(trained) / min(trained):.2f}.\n"]


def _durations(samples: Sequence[CardSample]) -> list[str]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        for modality, seconds in sample.seconds.items():
            found[modality, sample.split].append(seconds)
    if not found:
        return []
    rows = [
        f"| {_plain(modality)} | {split} | {len(seconds):,} | {min(seconds):.2f} | {statistics.median(seconds):.2f} | "
        f"{statistics.fmean(seconds):.2f} | {max(seconds):.2f} |"
        for (modality, split), seconds in sorted(found.items(), key=lambda item: (item[0][0], SPLITS.index(item[0][1])))
    ]
    head = ["| length in s | split | files | least | median | mean | most |", "|---|---|--:|--:|--:|--:|--:|"]
    return ["\n".join([*head, *rows, ""])]


def _kinds(
    title: str, unit: str, samples: Sequence[CardSample], facts: Callable[[CardSample], Mapping[str, object]]
) -> list[str]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for modality, value in facts(sample).items():
            found[modality][str(value)] += 1
    lines = []
    for modality, counts in sorted(found.items()):
        most = counts.most_common()
        told = ", ".join(f"{value} ({number:,})" for value, number in most[:SHOWN_KINDS])
        more = f" and {len(most) - SHOWN_KINDS} more" if len(most) > SHOWN_KINDS else ""
        lines.append(f"- {_plain(modality)}, {title} in {unit} (files): {told}{more}")
    return ["\n".join([*lines, ""])] if lines else []


def _lines(title: str, lines: Iterable[str]) -> list[str]:
    every = list(lines)
    if not every:
        return []
    told = [f"- {_plain(line)}" for line in every[:SHOWN_LINES]]
    more = [f"- and {len(every) - SHOWN_LINES:,} more"] if len(every) > SHOWN_LINES else []
    return ["\n".join([f"## {title} ({len(every):,})\n", *told, *more, ""])]


def _plain(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|")
