"""AVE: 28 classes of audio-visual events in 10 s videos (Tian et al. 2018; no license stated).

Layout of the download: ``AVE/*.mp4`` (or the .mp4 next to the lists), ``Annotations.txt``, ``trainSet.txt``, ``valSet.txt``,
``testSet.txt``; lines are ``Category&VideoID&Quality&StartTime&EndTime``. The split is the official one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from mm_balance.data.readers.base import (
    FileIndex,
    RawRow,
    RawSet,
    contents,
    find_file,
    find_folder,
    read_text,
    sort_rows,
)
from mm_balance.errors import UserError

NAME = "ave"
PROTOCOLS = ("published",)
FIELDS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
LISTS = {
    "train": ("trainSet.txt", "4f6c37aff56d4a3407f8beff47ca59dcefb8e94b3e02bbc34b0c89b5cdad6945"),
    "val": ("valSet.txt", "76c3c51b67aacbbacd5708e17aab491638a5e9032f786adad1a13be55d9cb3ca"),
    "test": ("testSet.txt", "e73c25a509bb38a691c1e08064af66d0512554f2fbc883cddd6d2a51ede8449d"),
}
"""With the hashes of the lists distributed by DG-SCT@211fc57. Other lists are read too, and a note reports them."""
ANNOTATIONS = ("Annotations.txt", "b0aabcea3281abb4c884e19ad4ff90314b199bea4742efe8556585a18f1396e7")


def read(source: Path, protocol: str) -> RawSet:
    """Read the download in ``source``.

    A video with two events gives two samples, ``VideoID`` and ``VideoID~2``, with different labels. The official lists put some
    videos in two splits (18, labeled differently in each); that split is kept, and a note reports how many.

    Raises:
        UserError: no lists or no videos, or a malformed line.
    """
    paths = {split: find_file(source, name) for split, (name, _) in LISTS.items()}
    if absent := [LISTS[split][0] for split, path in paths.items() if path is None]:
        raise UserError(
            f"{source} is not the download of AVE: {', '.join(absent)} missing; it contains {contents(source)}"
        )
    videos = FileIndex(source, [find_folder(source, "AVE") or source], [".mp4"])
    if not len(videos):
        raise UserError(f"{source}: no .mp4 in AVE/ or next to the lists")
    lists, notes = {}, []
    rows: list[RawRow] = []
    missing = []
    events: Counter[str] = Counter()
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, (name, expected) in LISTS.items():
        path = paths[split]
        assert path is not None
        lines, lists[name] = _read_list(path)
        if lists[name] != expected:
            notes.append(f"{name} is not the known list: SHA-256 {lists[name][:12]}, known {expected[:12]}")
        for label, video, quality, start, end in dict.fromkeys(lines):
            events[video] += 1
            splits_of[video].add(split)
            sample = video if events[video] == 1 else f"{video}~{events[video]}"
            file = videos.path(video)
            if file is None:
                missing.append(f"sample {sample!r}: no file {video}.mp4")
                continue
            extra = {"video": video, "event_start": start, "event_end": end, "quality": quality}
            rows.append(RawRow(sample, split, label, {"audio": file, "visual": file}, "", extra))
        if duplicates := len(lines) - len(set(lines)):
            notes.append(f"{name} has {duplicates} duplicate line(s), which are ignored")
    notes += _annotation_notes(source, lists)
    multiple = sum(count > 1 for count in events.values())
    leaked = sum(len(splits) > 1 for splits in splits_of.values())
    notes.append(f"{multiple} videos have more than one event, one sample each; {leaked} of them are in two splits")
    return RawSet(
        name=NAME,
        protocol=protocol,
        rows=sort_rows(rows),
        excluded=[],
        missing=sorted(missing),
        lists=lists,
        notes=notes,
        source_text="AVE (Tian et al. 2018), github.com/YapengTian/AVE-ECCV18; no license stated; official lists.",
    )


def _read_list(path: Path, *, header: bool = False) -> tuple[list[tuple[str, ...]], str]:
    text, digest = read_text(path)
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or (header and number == 1):
            continue
        parts = tuple(part.strip() for part in line.split("&"))
        if len(parts) != len(FIELDS) or not all(parts):
            raise UserError(f"{path}: line {number} is not of the form {'&'.join(FIELDS)}: {line.strip()[:80]!r}")
        lines.append(parts)
    if not lines:
        raise UserError(f"{path}: empty")
    return lines, digest


def _annotation_notes(source: Path, lists: dict[str, str]) -> list[str]:
    name, expected = ANNOTATIONS
    path = find_file(source, name)
    if path is None:
        return [f"{name} is not in the download (not needed: the lists have the same lines)"]
    lines, lists[name] = _read_list(path, header=True)
    videos = len({video for _, video, *_ in lines})
    note = f"{name}: {len(lines):,} annotations of {videos:,} videos"
    return [note if lists[name] == expected else f"{note}; not the known file"]
