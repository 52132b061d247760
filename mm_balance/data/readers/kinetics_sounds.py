"""Kinetics-Sounds: 31 classes of Kinetics-400 that are both visible and audible (Arandjelovic and Zisserman 2017).

Layouts of the download: ``CLASS/CLIP.mp4``, ``train|val|test/CLASS/CLIP.mp4``, or all clips in one folder. Lists: my_train.txt
and my_test.txt of GeWu-Lab/OGM-GE_CVPR2022@343dc1d (``clip,10,class``), 14,799 and 2,597 clips; no validation set.

The train list names clips ``ID_START_END`` with six digits each, as Kinetics does, the test list ``ID_START``; a file matches
a clip if id and start agree. The lists give classes by number; the names are the alphabetical list below, which was verified
on one clip only. If files are in class folders, every clip is checked against it.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path, PurePosixPath

from mm_balance.data.readers.base import FileIndex, RawRow, RawSet, contents, shipped_list, sort_rows
from mm_balance.errors import UserError

NAME = "kinetics_sounds"
PROTOCOLS = ("published",)
LISTS = {
    "train": ("kinetics_sounds_train.txt", "e75bb596c30bf839adb3c2dc73b4a4617add66b36c2f416f96ac2e56a251751f"),
    "test": ("kinetics_sounds_test.txt", "3bb1fee2c9d30919cec6887a3e2fa27b7936cc3f46dff447d85ea21892a80a58"),
}
CLASSES = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing", "mowing lawn",
    "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet", "playing drums", "playing guitar",
    "playing harmonica", "playing keyboard", "playing organ", "playing piano", "playing saxophone", "playing trombone",
    "playing trumpet", "playing violin", "playing xylophone", "ripping paper", "shoveling snow", "shuffling cards", "singing",
    "stomping grapes", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip
CLIP = re.compile(r"(?P<video>.{11})_(?P<start>\d+)(_\d+)?")
EXTENSIONS = (".mp4", ".mkv", ".webm", ".avi")


def read(source: Path, protocol: str) -> RawSet:
    """Read the download in ``source``.

    Raises:
        UserError: no videos, or clips in the folder of another class than in the lists.
    """
    videos = FileIndex(source, [source], EXTENSIONS)
    if not len(videos):
        raise UserError(
            f"{source} is not a download of Kinetics-Sounds: no video ({', '.join(EXTENSIONS)}); it contains {contents(source)}"
        )
    by_clip: dict[tuple[str, int], str] = {}
    for name_on_disk in videos.stems():
        if (key := _key(name_on_disk)) is not None:
            by_clip.setdefault(key, name_on_disk)
    lists: dict[str, str] = {}
    rows: list[RawRow] = []
    missing: list[str] = []
    mismatches: list[str] = []
    confirmed = 0
    for split, (name, expected) in LISTS.items():
        text, lists[name] = shipped_list(name, expected)
        for clip, _, number in csv.reader(io.StringIO(text)):
            key = _key(clip)
            stem: str | None = clip
            if videos.path(clip) is None:
                stem = by_clip.get(key) if key is not None else None
            if stem is None:
                missing.append(f"sample {clip!r}: no video of that id and start")
                continue
            label = CLASSES[int(number)]
            file, folder = _file_of_class(videos.paths(stem), label)
            if folder not in (label, ""):
                mismatches.append(f"{file} is {label!r} in {name}")
                continue
            confirmed += folder == label
            rows.append(RawRow(clip, split, label, {"audio": file, "visual": file}, "", {"video": clip[:11]}))
    if mismatches:
        raise UserError(
            f"{source}: {len(mismatches)} clip(s) are in the folder of another class than in the published lists: "
            f"{'; '.join(mismatches[:3])}. Either the folders or the map of class numbers to names is wrong"
        )
    return RawSet(
        name=NAME,
        protocol=protocol,
        rows=sort_rows(rows),
        excluded=[],
        missing=sorted(missing),
        lists=lists,
        notes=[
            "the names of the 31 class numbers are the alphabetical list, which was verified on one clip only; "
            f"here {confirmed:,} of {len(rows):,} clips are in a folder of the same name",
            "clips vanish from YouTube, so n differs between papers; every listed clip that is missing here is reported",
        ],
        source_text="Kinetics-Sounds (Arandjelovic and Zisserman 2017; Kinetics-400); lists of "
        "GeWu-Lab/OGM-GE_CVPR2022@343dc1d (MIT).",
    )


def _key(stem: str) -> tuple[str, int] | None:
    match = CLIP.fullmatch(stem)
    return None if match is None else (match["video"], int(match["start"]))


def _file_of_class(paths: list[str], label: str) -> tuple[str, str]:
    """Return the file in the folder of ``label``, else the first, and the class its folder is named after, empty = none."""
    folders = {path: PurePosixPath(path).parent.name.replace("_", " ").lower() for path in paths}
    for path, folder in folders.items():
        if folder == label:
            return path, folder
    first = paths[0]
    return first, folders[first] if folders[first] in CLASSES else ""
