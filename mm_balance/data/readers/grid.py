"""GRID: sentences of six words, spoken by 34 talkers in front of a camera (Cooke, Barker, Cunningham, Shao, JASA 2006; CC BY 4.0;
zenodo.org/records/3625687).

Layout of the download: a video per sentence, ``s1/bbaf2n.mpg``, and an alignment per sentence, ``alignments/s1/bbaf2n.align``.
Copies differ, so both are looked for in all folders; the talker is the folder ``s<number>`` above the file. Lines of an alignment
are ``start end word`` in units of 1/25000 s (1,000 units per video frame); ``sil`` and ``sp`` are silence. The name spells the
sentence: ``bbaf2n`` is *bin blue at f two now*.

A sample is one word of a sentence. ``mm_balance.data.grid_words`` cuts the words out; ``read`` reads what it wrote.

Splits (ours: GRID has none for single words): ``published`` divides the sentences of each talker, 70 / 10 / 20 % of each word;
``speaker`` has no talker in more than one of train, validation and test.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mm_balance.data.readers.base import SPLITS, RawRow, RawSet, contents, read_text, sort_rows
from mm_balance.errors import UserError

Key = TypeVar("Key")

NAME = "grid"
PROTOCOLS = ("published", "speaker")
SLOTS: Mapping[str, Mapping[str, str]] = {
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "color": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    "digit": {
        "z": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight",
        "9": "nine",
    },
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}  # fmt: skip
"""Slot -> character in a file's name -> word, in the order of the sentence. W is not among the letters: its name is too long."""
UNITS_PER_SECOND = 25_000
SILENCE = ("sil", "sp")
VIDEO, ALIGNMENT = (".mpg", ".mpeg"), (".align",)
SENTENCE = "".join(f"[{''.join(characters)}]" for characters in SLOTS.values())
FILE = re.compile(rf"(?:(?P<prefix>.+)_)?(?P<sentence>{SENTENCE})")
TALKER = re.compile(r"(?:s|id)0*([1-9]\d?)(?:[_.-].*)?")
"""A folder ``s1``, or as its archives are called: ``s1_processed``, ``s1.mpg_6000``."""
MANIFEST, FAILURES, SETTINGS = "manifest.csv", "not_cut.txt", "cut.json"
"""Files of a folder of words: a manifest, one line per sentence that could not be cut, and how the words were cut. Only the
manifest is needed."""
COLUMNS = ("sample", "split", "label", "audio", "visual", "group")
SHARES = {"val": 0.1, "test": 0.2}
LEAST_TALKERS = 3


class BadSentence(Exception):
    """A sentence cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Sentence:
    """A video and its alignment. ``talker`` is ``s<number>``, or empty if no folder names one."""

    talker: str
    name: str
    video: Path
    alignment: Path

    @property
    def id(self) -> str:
        """Talker and name, for example ``s1_bbaf2n``."""
        return f"{self.talker}_{self.name}" if self.talker else self.name


@dataclass(frozen=True)
class Corpus:
    """The sentences of a download, sorted; one line per sentence that lacks a file; remarks."""

    sentences: list[Sentence]
    missing: list[str]
    notes: list[str]


def find_sentences(source: Path) -> Corpus:
    """Find videos and alignments in all folders of ``source``, and match them by talker and name.

    An alignment without a talker's folder fits a video of that name of any talker.

    Raises:
        UserError: no such folder, no videos, or no alignment fits any of them; the message says what was found.
    """
    if not source.is_dir():
        raise UserError(f"source={source}: no such folder")
    videos, alignments = _named_files(source, VIDEO), _named_files(source, ALIGNMENT)
    if not videos:
        raise UserError(
            f"{source} is not the download of GRID: no video named like bbaf2n.mpg in any folder; it contains {contents(source)}"
        )
    notes = []
    if repeated := sum(len(paths) > 1 for paths in videos.values()):
        notes.append(f"{repeated} sentences have several videos; the first by path is used")
    sentences, missing = [], []
    for (talker, name), paths in sorted(videos.items()):
        found = alignments.get((talker, name)) or alignments.get(("", name))
        if found:
            sentences.append(Sentence(talker, name, paths[0], found[0]))
        else:
            missing.append(f"sentence {_id(talker, name)!r}: no alignment {name}.align")
    if not sentences:
        video = next(iter(sorted(videos.values())))[0].relative_to(source)
        example = next((paths[0].relative_to(source) for paths in sorted(alignments.values())), None)
        raise UserError(
            f"{source}: {len(videos):,} video(s) like {video}, and {len(alignments):,} alignment(s)"
            + (f" like {example}, none of which fits" if example else "")
            + f"; extract alignments.zip of GRID, so that {video.stem}.align is in align/ or alignments/{video.parent.name or 's1'}/"
        )
    talkers = {talker for talker, _ in videos}
    for talker, name in sorted(alignments.keys() - videos.keys()):
        if talker in talkers and talker:
            missing.append(f"sentence {_id(talker, name)!r}: no video {name}.mpg")
    if silent := sorted({talker for talker, _ in alignments} - talkers - {""}, key=_number):
        notes.append(f"no videos of {', '.join(silent)}, who have alignments (the corpus itself has no video of s21)")
    return Corpus(sentences, missing, notes)


def _named_files(source: Path, extensions: tuple[str, ...]) -> dict[tuple[str, str], list[Path]]:
    """Talker and sentence -> files, sorted by path."""
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for directory, folders, files in os.walk(source):
        folders.sort()
        for file in sorted(files):
            stem, extension = os.path.splitext(file.lower())
            match = FILE.fullmatch(stem)
            if match and extension in extensions:
                inside = Path(directory).relative_to(source).parts
                parts = [source.resolve().name, *inside, (match["prefix"] or "").split("_")[0]]
                talkers = [talker[1] for part in parts if (talker := TALKER.fullmatch(part.lower()))]
                key = f"s{talkers[-1]}" if talkers else "", match["sentence"]
                found[key].append(Path(directory, file))
    return found


def _id(talker: str, name: str) -> str:
    return f"{talker}_{name}" if talker else name


def _number(talker: str) -> int:
    return int(talker[1:] or 0)


def spoken_word(alignment: str, name: str, slot: str) -> tuple[str, int, int]:
    """Look up the word of a slot in an alignment.

    Args:
        alignment: content of the file.
        name: the sentence's name, for example ``bbaf2n``.
        slot: a key of ``SLOTS``.

    Returns:
        The word, and its start and end in units of 1/25000 s.

    Raises:
        BadSentence: a malformed line, not six words, another word than the name says, or times that are none.
    """
    words = []
    for number, line in enumerate(alignment.splitlines(), 1):
        if not (parts := line.split()):
            continue
        if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            raise BadSentence(f"alignment, line {number}: not of the form `start end word`: {line.strip()[:60]!r}")
        start, end, word = int(parts[0]), int(parts[1]), parts[2].lower()
        if word not in SILENCE:
            words.append((word, start, end))
    if len(words) != len(SLOTS):
        spoken = " ".join(word for word, _, _ in words)
        raise BadSentence(f"the alignment has {len(words)} words ({spoken[:60]}) beside silence, not {len(SLOTS)}")
    position = list(SLOTS).index(slot)
    word, start, end = words[position]
    expected = SLOTS[slot][name[position]]
    if word != expected:
        raise BadSentence(f"the {slot} is {word!r} in the alignment, but {expected!r} by the name")
    if not 0 <= start < end:
        raise BadSentence(f"the {slot} starts at {start} and ends at {end} in the alignment")
    return word, start, end


def sentence_splits(labels: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """Divide the sentences of each talker: about 10 % of each word for validation, 20 % for test.

    The order is that of a hash, so that the same sentences are drawn on every machine. Sentences of one talker do not
    depend on the other talkers.

    Args:
        labels: talker and name of a sentence -> word.
    """
    members: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, label in labels.items():
        members[key[0], label].append(key)
    splits: dict[tuple[str, str], str] = {}
    for keys in members.values():
        ordered = sorted(keys, key=lambda key: _hash(f"sentence {_id(*key)}"))
        splits |= _divide(ordered, {split: round(share * len(keys)) for split, share in SHARES.items()})
    return splits


def talker_splits(talkers: Iterable[str]) -> dict[str, str]:
    """Assign talkers to splits in the order of a hash: about a tenth (at least one) for validation, a fifth for test."""
    ordered = sorted(set(talkers), key=lambda talker: _hash(f"speaker {talker}"))
    return _divide(ordered, {split: max(1, round(share * len(ordered))) for split, share in SHARES.items()})


def _divide(ordered: list[Key], counts: Mapping[str, int]) -> dict[Key, str]:
    splits = dict.fromkeys(ordered, "train")
    start = 0
    for split, count in counts.items():
        splits |= dict.fromkeys(ordered[start : start + count], split)
        start += count
    return splits


def _hash(text: str) -> str:
    return hashlib.sha256(f"mm-balance grid {text}".encode()).hexdigest()


def read(source: Path, protocol: str) -> RawSet:
    """Read a folder of words as ``mm_balance.data.grid_words`` writes it.

    Raises:
        UserError: another folder, a malformed manifest, or ``speaker`` with fewer than three talkers.
    """
    path = source / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{source} has no {MANIFEST} with words cut out of GRID (`prepare` and tools/cut_grid.py cut them); it contains "
            f"{contents(source)}"
        )
    text, digest = read_text(path)
    reader = csv.DictReader(io.StringIO(text))
    if absent := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
        raise UserError(f"{path}: missing column(s) {', '.join(absent)}")
    rows = [_row(path, number, line) for number, line in enumerate(reader, 2)]
    notes = ["the split is ours (GRID has none for single words)"]
    if protocol == "speaker":
        talkers = {row.extra["talker"] for row in rows} - {""}
        if len(talkers) < LEAST_TALKERS:
            raise UserError(
                f"protocol=speaker needs at least {LEAST_TALKERS} talkers, and {source} has "
                f"{', '.join(sorted(talkers, key=_number)) or 'none that is named'}; add talkers (s1, s2, ... of GRID), or give "
                "protocol=published, which divides the sentences of each talker"
            )
        if nameless := [row.sample for row in rows if not row.extra["talker"]]:
            raise UserError(
                f"protocol=speaker: no talker is known of {nameless[0]!r}; put its files into a folder s<number>"
            )
        splits = talker_splits(talkers)
        for row in rows:
            row.split, row.group = splits[row.extra["talker"]], row.extra["talker"]
        for split in SPLITS:
            members = sorted((talker for talker in talkers if splits[talker] == split), key=_number)
            notes.append(f"{split}: {', '.join(members)}")
    else:
        talkers = {row.extra["talker"] for row in rows}
        notes.append(f"sentences of each of {len(talkers)} talker(s) divided; every talker is in all splits")
    if (source / SETTINGS).is_file():
        notes += json.loads(read_text(source / SETTINGS)[0])["notes"]
    failures = read_text(source / FAILURES)[0].splitlines() if (source / FAILURES).is_file() else []
    return RawSet(
        name=NAME,
        protocol=protocol,
        rows=sort_rows(rows),
        excluded=[],
        missing=failures,
        lists={MANIFEST: digest},
        notes=notes,
        source_text="GRID (Cooke, Barker, Cunningham, Shao, JASA 2006, CC BY 4.0), zenodo.org/records/3625687; single words with "
        "a crop of the mouth, cut out by MM-Balance.",
    )


def _row(path: Path, number: int, line: Mapping[str, str | None]) -> RawRow:
    if None in line.values() or None in line:
        raise UserError(f"{path}: line {number} has not as many columns as the header")
    values = {name: line[name] or "" for name in COLUMNS}
    if values["split"] not in SPLITS:
        raise UserError(f"{path}: line {number}: split {values['split']!r} is none of {', '.join(SPLITS)}")
    talker, _, sentence = values["group"].rpartition("_")
    return RawRow(
        sample=values["sample"],
        split=values["split"],
        label=values["label"],
        files={"audio": values["audio"], "visual": values["visual"]},
        group=values["group"],
        extra={"talker": talker, "sentence": sentence},
    )
