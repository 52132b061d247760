"""Kinetics-Sounds: 31 classes of Kinetics-400 that can be both seen and heard (Arandjelovic and Zisserman 2017).

Layouts of the download: ``CLASS/CLIP.mp4``, ``train|val|test/CLASS/CLIP.mp4``, or all clips in one folder. Lists: my_train.txt
and my_test.txt of GeWu-Lab/OGM-GE_CVPR2022@343dc1d (``clip,10,class``), 14,799 and 2,597 clips; no validation set.

The train list names clips ``ID_START_END`` in six digits each, as Kinetics does, the test list ``ID_START``; a file counts as
the clip when id and start agree. The lists give classes by number; the names are the alphabetical list below, which was
verified on one clip only. Where the files lie in folders of classes, every clip is checked against it.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path, PurePosixPath

from mm_balance.data.readers.base import Listing, RawRow, RawSet, contents, in_order, shipped_list
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
    """The download in ``source``.

    Raises:
        UserError: no videos, or clips that lie in the folder of another class than the lists give them.
    """
    films = Listing(source, [source], EXTENSIONS)
    if not len(films):
        raise UserError(
            f"{source} is not a download of Kinetics-Sounds: it holds no video ({', '.join(EXTENSIONS)}), but {contents(source)}"
        )
    by_clip: dict[tuple[str, int], str] = {}
    for known in films.stems():
        if (key := _key(known)) is not None:
            by_clip.setdefault(key, known)
    lists: dict[str, str] = {}
    rows: list[RawRow] = []
    missing: list[str] = []
    wrong: list[str] = []
    agreeing = 0
    for split, (name, expected) in LISTS.items():
        text, lists[name] = shipped_list(name, expected)
        for clip, _, number in csv.reader(io.StringIO(text)):
            key = _key(clip)
            stem: str | None = clip
            if films.path(clip) is None:
                stem = by_clip.get(key) if key is not None else None
            if stem is None:
                missing.append(f"sample {clip!r}: no video of that id and start")
                continue
            label = CLASSES[int(number)]
            film, folder = _of_class(films.paths(stem), label)
            if folder not in (label, ""):
                wrong.append(f"{film} is {label!r} in {name}")
                continue
            agreeing += folder == label
            rows.append(RawRow(clip, split, label, {"audio": film, "visual": film}, "", {"video": clip[:11]}))
    if wrong:
        raise UserError(
            f"{source}: {len(wrong)} clip(s) lie in the folder of another class than the published lists give them: "
            f"{'; '.join(wrong[:3])}. Either the folders or the map of class numbers to names is wrong"
        )
    return RawSet(
        name=NAME,
        protocol=protocol,
        rows=in_order(rows),
        excluded=[],
        missing=sorted(missing),
        lists=lists,
        notes=[
            "the names of the 31 class numbers are the alphabetical list, verified on one clip only when it was written down; "
            f"here {agreeing:,} of {len(rows):,} clips lie in a folder that says the same",
            "clips vanish from YouTube: n differs between papers; every clip of the lists that is not here is reported",
        ],
        source_text="Kinetics-Sounds (Arandjelovic and Zisserman 2017; Kinetics-400); lists of "
        "GeWu-Lab/OGM-GE_CVPR2022@343dc1d (MIT).",
    )


def _key(stem: str) -> tuple[str, int] | None:
    match = CLIP.fullmatch(stem)
    return None if match is None else (match["video"], int(match["start"]))


def _of_class(paths: list[str], label: str) -> tuple[str, str]:
    """The file in the folder of ``label``, else the first; and the class that its folder names, empty = none."""
    folders = {path: PurePosixPath(path).parent.name.replace("_", " ").lower() for path in paths}
    for path, folder in folders.items():
        if folder == label:
            return path, folder
    first = paths[0]
    return first, folders[first] if folders[first] in CLASSES else ""
