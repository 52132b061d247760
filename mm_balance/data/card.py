"""The data card: statistics of the samples and their files as markdown."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mm_balance.data.dataset import MultimodalData
from mm_balance.escaping import markdown_text

SPLITS = ("train", "val", "test")
SHOWN_KINDS = 8
"""Maximum number of sampling rates or image sizes listed."""
LONGEST_NAME, LONGEST_LINE = 100, 1000
"""Characters of a label, and of a line about a clip, that are shown."""
NOT_SET = "Nothing of it is set by itself: what is not given has the value of the preset, which is for a GPU."
SHOWN_LINES = 50
"""Maximum number of skipped or excluded clips listed."""


@dataclass(frozen=True)
class CardSample:
    """Facts about one sample for the card, keyed by the modalities that have them.

    Attributes:
        classes: its true class, or all of them; it counts in each.
        seconds: duration of the file.
        rate: audio sampling rate, Hz.
        size: width and height of the original images, pixels.
        frames: number of stored frames.
        array: number and type of the features of a vector or sequence.
        steps: length of a sequence.
    """

    split: str
    classes: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    rate: Mapping[str, int] = field(default_factory=dict)
    size: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    frames: Mapping[str, int] = field(default_factory=dict)
    array: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)


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
    warnings: Sequence[str] = (),
    inputs: Mapping[str, str] | None = None,
    suggested: str = "",
) -> str:
    """Write the data card as markdown text.

    Args:
        samples: samples of all splits.
        recipe: the preprocessing in one line.
        digest: digest of the data.
        source: origin of the data.
        lists: published list -> its SHA-256.
        notes: remarks on the data or the split.
        excluded: one line per clip excluded by the data set's own recipe.
        skipped: one line per unusable clip.
        warnings: what is suspicious about the data.
        inputs: modality -> kind and shape of what networks are given, in words; the first one leads the gap.
        suggested: command, of a shell or of Python, with settings that fit the data on a machine without a GPU; empty = none.
    """
    files = [
        *_spread("duration in s", 2, samples, lambda sample: sample.seconds),
        *_value_counts("sampling rate", "Hz", samples, lambda sample: sample.rate),
        *_value_counts(
            "image size", "pixels", samples, lambda sample: {m: f"{w} x {h}" for m, (w, h) in sample.size.items()}
        ),
        *_value_counts("stored frames", "frames", samples, lambda sample: sample.frames),
        *_value_counts("array", "numbers", samples, lambda sample: sample.array),
    ]
    parts = [
        f"# {markdown_text(name)}\n\n{markdown_text(source)}\n",
        f"- digest: `{digest}`\n- recipe: {markdown_text(recipe)}\n",
        "## Samples\n",
        *_class_table(samples),
        *(["## Files\n", *files] if files else []),
    ]
    if lengths := _spread("steps", 0, samples, lambda sample: sample.steps):
        parts += ["## Lengths of sequences\n", *lengths]
    if inputs:
        shapes = [f"- {markdown_text(modality)}: {markdown_text(text)}" for modality, text in inputs.items()]
        parts.append("\n".join(["## Inputs of the networks\n", *shapes, ""]))
    if lists:
        rows = [f"| {markdown_text(file)} | `{sha256}` |" for file, sha256 in lists.items()]
        parts.append("\n".join(["## Lists\n", "| list | SHA-256 |", "|---|---|", *rows, ""]))
    if suggested:
        parts.append(f"## Suggested settings\n\nFor a machine without a GPU, from the sizes and lengths above. {NOT_SET}\n\n"
                     f"```\n{suggested}\n```\n")  # fmt: skip
    for title, lines in (
        ("Warnings", warnings),
        ("Notes", notes),
        ("Excluded by the data set's own recipe", excluded),
        ("Skipped", skipped),
    ):
        parts += _lines(title, lines)
    return "\n".join(parts)


def card_samples(data: MultimodalData) -> list[CardSample]:
    """Return what the card counts, from the table of samples, whose columns depend on where the data come from."""
    table = data.table

    def modalities_with(*columns: str) -> list[str]:
        return [name for name in data.specs if all(f"{name}_{column}" in table for column in columns)]

    sounds = modalities_with("channels", "seconds", "rate")
    pictures = modalities_with("frames", "seconds", "width", "height")
    arrays = modalities_with("features", "dtype")
    sequences = modalities_with("steps")

    def values_of(modalities: list[str], column: str, index: int) -> dict[str, Any]:
        values = {name: table[f"{name}_{column}"][index] for name in modalities}
        return {name: value for name, value in values.items() if value is not None}

    return [
        CardSample(
            split=table["split"][index],
            classes=tuple(table["true_classes"][index]) if data.several_classes else (table["label"][index],),
            seconds=values_of([*sounds, *pictures], "seconds", index),
            rate=values_of(sounds, "rate", index),
            size={name: (table[f"{name}_width"][index], table[f"{name}_height"][index]) for name in pictures},
            frames=values_of(pictures, "frames", index),
            array={
                name: f"{table[f'{name}_features'][index]:,} features of {table[f'{name}_dtype'][index]}"
                for name in arrays
            },
            steps=values_of(sequences, "steps", index),
        )
        for index in range(len(table.get("sample", ())))
    ]


def _class_table(samples: Sequence[CardSample]) -> list[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for name in sample.classes:
            counts[name][sample.split] += 1
    totals = Counter(sample.split for sample in samples)
    rows = [
        f"| {markdown_text(_short(label))} | "
        + " | ".join(f"{by_split[split]:,}" for split in SPLITS)
        + f" | {by_split.total():,} |"
        for label, by_split in sorted(counts.items())
    ]
    rows.append(
        "| **all** | " + " | ".join(f"**{totals[split]:,}**" for split in SPLITS) + f" | **{totals.total():,}** |"
    )
    table = "\n".join(["| class | train | val | test | all |", "|---|--:|--:|--:|--:|", *rows, ""])
    train_counts = [by_split["train"] for by_split in counts.values() if by_split["train"]]
    if not train_counts:
        return [table]
    return [table, f"Largest training class over smallest: {max(train_counts) / min(train_counts):.2f}.\n"]


def _spread(
    title: str, digits: int, samples: Sequence[CardSample], facts: Callable[[CardSample], Mapping[str, float]]
) -> list[str]:
    """Tabulate numbers by modality and split; nothing if no sample has any. ``digits``: of smallest and largest."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        for modality, value in facts(sample).items():
            found[modality, sample.split].append(value)
    if not found:
        return []
    rows = [
        f"| {markdown_text(modality)} | {split} | {len(values):,} | {min(values):.{digits}f} | "
        f"{statistics.median(values):.{digits}f} | {statistics.fmean(values):.2f} | {max(values):.{digits}f} |"
        for (modality, split), values in sorted(found.items(), key=lambda item: (item[0][0], SPLITS.index(item[0][1])))
    ]
    head = [f"| {title} | split | samples | min | median | mean | max |", "|---|---|--:|--:|--:|--:|--:|"]
    return ["\n".join([*head, *rows, ""])]


def _value_counts(
    title: str, unit: str, samples: Sequence[CardSample], facts: Callable[[CardSample], Mapping[str, object]]
) -> list[str]:
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for modality, value in facts(sample).items():
            values[modality][str(value)] += 1
    lines = []
    for modality, counts in sorted(values.items()):
        ranked = counts.most_common()
        listed = ", ".join(f"{value} ({number:,})" for value, number in ranked[:SHOWN_KINDS])
        more = f" and {len(ranked) - SHOWN_KINDS} more" if len(ranked) > SHOWN_KINDS else ""
        lines.append(f"- {markdown_text(modality)}, {title} in {unit} (files): {listed}{more}")
    return ["\n".join([*lines, ""])] if lines else []


def _lines(title: str, lines: Iterable[str]) -> list[str]:
    items = list(lines)
    if not items:
        return []
    listed = [f"- {markdown_text(_short(line, LONGEST_LINE))}" for line in items[:SHOWN_LINES]]
    more = [f"- and {len(items) - SHOWN_LINES:,} more"] if len(items) > SHOWN_LINES else []
    return ["\n".join([f"## {title} ({len(items):,})\n", *listed, *more, ""])]


def _short(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
