"""CREMA-D: six emotions, acted by 91 people (Cao et al. 2014; ODbL 1.0; github.com/CheyneyComputerScience/CREMA-D).

Layout of the download: ``AudioWAV/*.wav`` and ``VideoFlash/*.flv``, or ``VideoMP4/*.mp4`` if that folder exists;
optionally ``VideoDemographics.csv`` and ``processedResults/summaryTable.csv``. Clips are named
``ACTOR_SENTENCE_EMOTION_LEVEL``, for example 1001_DFA_ANG_XX.

Splits: ``published``, the lists of GeWu-Lab/OGM-GE_CVPR2022@343dc1d (6,698 / 744 clips, no validation set, every actor in both
halves); ``speaker`` (ours): no actor in more than one of train, validation and test.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from pathlib import Path

from mm_balance.data.readers.base import (
    FileIndex,
    RawRow,
    RawSet,
    contents,
    find_file,
    find_folder,
    read_text,
    shipped_list,
    sort_rows,
)
from mm_balance.errors import UserError

NAME = "cremad"
PROTOCOLS = ("published", "speaker")
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
CLIP = re.compile(r"(?P<actor>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>LO|MD|HI|XX|X)")
LISTS = {
    "train": ("cremad_train.csv", "68d0d3fd253830328fc92c68f3cf2e215db8c5b86757ad9c5112d2c76ba68bde"),
    "test": ("cremad_test.csv", "14866c99301fd56fb4a16f8a7048a8a6372a47069aee9f216443bc718be45f1f"),
}
README = "README of CREMA-D at 1658cd3"
KNOWN_BAD = {
    "1076_MTI_SAD_XX": "no sound and an error image, very short",
    "1076_MTI_NEU_XX": "its .flv is very short and has no sound",
    "1064_TIE_SAD_XX": "its .flv has no duration",
}
"""Clips that the download's own README calls broken. Other implementations train on them or drop them silently."""
WRONG_CONTENT = "1064_IEO_DIS_MD"
VOTES = ("VoiceVote", "VoiceLevel", "FaceVote", "FaceLevel", "MultiModalVote", "MultiModalLevel")
DEMOGRAPHICS = ("Age", "Sex", "Race", "Ethnicity")
SPEAKERS = {"val": 9, "test": 9}
"""Actors of each split under ``speaker``; the other 73 are for training."""


def read(source: Path, protocol: str) -> RawSet:
    """Read the download in ``source``.

    Raises:
        UserError: no folder of sounds or of videos, or a list that contradicts the names of the clips.
    """
    audio_folder = find_folder(source, "AudioWAV")
    video_folder = find_folder(source, "VideoMP4") or find_folder(source, "VideoFlash")
    if audio_folder is None or video_folder is None:
        raise UserError(
            f"{source} is not the download of CREMA-D: it needs the folders AudioWAV and VideoFlash (or VideoMP4), but contains "
            f"{contents(source)}"
        )
    audio = FileIndex(source, [audio_folder], [".wav"])
    visual = FileIndex(source, [video_folder], [".mp4", ".flv"])
    votes, vote_note = _table(
        source, ("processedResults/summaryTable.csv", "summaryTable.csv"), "FileName", VOTES, "human votes"
    )
    people, people_note = _table(
        source, ("VideoDemographics.csv",), "ActorID", DEMOGRAPHICS, "demographics of the actors"
    )
    listed: dict[str, tuple[str, str]] = {}
    lists = {}
    for split, (name, expected) in LISTS.items():
        text, lists[name] = shipped_list(name, expected)
        for clip, emotion in csv.reader(io.StringIO(text)):
            listed[clip] = split, emotion
    facts_of = {clip: _parse(clip, emotion) for clip, (_, emotion) in listed.items()}
    speakers = _speaker_splits({facts["actor"] for facts in facts_of.values()})
    rows, missing, excluded = [], [], []
    for clip, (split, emotion) in listed.items():
        facts = facts_of[clip]
        if clip in KNOWN_BAD:
            excluded.append(f"{clip}: {KNOWN_BAD[clip]} ({README})")
            continue
        sound, video = audio.path(clip), visual.path(clip)
        if sound is None or video is None:
            patterns = [
                pattern
                for pattern, path in ((f"{audio_folder.name}/*.wav", sound), (f"{video_folder.name}/*", video))
                if path is None
            ]
            missing.append(f"sample {clip!r}: no file in {' nor in '.join(patterns)}")
            continue
        rows.append(
            RawRow(
                sample=clip,
                split=split if protocol == "published" else speakers[facts["actor"]],
                label=emotion,
                files={"audio": sound, "visual": video},
                group=facts["actor"] if protocol == "speaker" else "",
                extra={
                    **{name: facts[name] for name in ("actor", "sentence", "level")},
                    **{_column(name): people.get(facts["actor"], {}).get(name, "") for name in DEMOGRAPHICS},
                    **{_column(name): votes.get(clip, {}).get(name, "") for name in VOTES},
                },
            )
        )
    return RawSet(
        name=NAME,
        protocol=protocol,
        rows=sort_rows(rows),
        excluded=sorted(excluded),
        missing=sorted(missing),
        lists=lists,
        notes=[*_notes(rows, protocol), vote_note, people_note],
        source_text="CREMA-D (Cao et al. 2014, ODbL 1.0), github.com/CheyneyComputerScience/CREMA-D; lists of "
        "GeWu-Lab/OGM-GE_CVPR2022@343dc1d (MIT).",
    )


def _parse(clip: str, emotion: str) -> dict[str, str]:
    match = CLIP.fullmatch(clip)
    if match is None or match["emotion"] != emotion or emotion not in EMOTIONS:
        raise UserError(f"the published list labels clip {clip!r} as {emotion!r}, which contradicts its name")
    return match.groupdict()


def _speaker_splits(actors: set[str]) -> dict[str, str]:
    """Assign actors to splits in the order of a hash: the same on every machine, whatever else the download contains."""
    order = sorted(actors, key=lambda actor: hashlib.sha256(f"mm-balance speaker {actor}".encode()).hexdigest())
    splits = dict.fromkeys(order, "train")
    splits |= dict.fromkeys(order[: SPEAKERS["val"]], "val")
    splits |= dict.fromkeys(order[SPEAKERS["val"] :][: SPEAKERS["test"]], "test")
    return splits


def _table(
    source: Path, names: tuple[str, ...], key: str, columns: tuple[str, ...], what: str
) -> tuple[dict[str, dict[str, str]], str]:
    path = find_file(source, *names)
    if path is None:
        return {}, f"{what}: {names[0]} is not in the download, so these columns are empty"
    text, _ = read_text(path)
    reader = csv.DictReader(io.StringIO(text))
    if absent := [name for name in (key, *columns) if name not in (reader.fieldnames or [])]:
        raise UserError(f"{path}: missing column(s) {', '.join(absent)}")
    rows = {row[key]: row for row in reader}
    return rows, f"{what}: {len(rows):,} rows of {path.name}"


def _column(name: str) -> str:
    """Convert to snake case: ``VoiceVote`` -> ``voice_vote``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _notes(rows: list[RawRow], protocol: str) -> list[str]:
    actors: dict[str, set[str]] = {}
    for row in rows:
        actors.setdefault(row.split, set()).add(row.extra["actor"])
    notes = [", ".join(f"{split}: {len(members)} actors" for split, members in sorted(actors.items()))]
    if protocol == "published":
        both = actors.get("train", set()) & actors.get("test", set())
        notes.append(
            f"{len(both)} of {len(actors.get('test', set()))} test actors also occur in training; "
            "protocol=speaker separates them"
        )
    if any(row.sample == WRONG_CONTENT for row in rows):
        notes.append(f"{WRONG_CONTENT} is a minute long and shows other emotions as well ({README}); it is kept")
    return notes
