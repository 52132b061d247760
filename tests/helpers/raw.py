"""Raw downloads for tests: the official layouts, with a few real encoded files linked under every name."""

import os
from pathlib import Path

import numpy as np
import soundfile

from mm_balance.data.readers import ave, cremad, grid, kinetics_sounds
from mm_balance.data.readers.base import shipped_list
from tests.helpers.media import tone, write_video

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "splits"


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def media(folder: Path, **options) -> dict[str, Path]:
    """One sound and one video of each format."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "sound.wav", tone(0.4, 16_000), 16_000)
    found = {"wav": folder / "sound.wav"}
    for extension in ("flv", "mp4"):
        found[extension] = write_video(
            folder / f"film.{extension}", **{"seconds": 0.4, "rate": 10, "size": (48, 36), **options}
        )
    return found


def cremad_clips() -> list[str]:
    """All 7,442 clips of the published lists."""
    return [line.split(",")[0] for name, expected in cremad.LISTS.values()
            for line in shipped_list(name, expected)[0].splitlines()]  # fmt: skip


def make_cremad(folder: Path, *, clips=None, votes=True, films="VideoFlash") -> Path:
    """The download of CREMA-D, of all clips or some."""
    files = media(folder.parent / "media")
    extension = "flv" if films == "VideoFlash" else "mp4"
    chosen = cremad_clips() if clips is None else clips
    for clip in chosen:
        link(files["wav"], folder / "AudioWAV" / f"{clip}.wav")
        link(files[extension], folder / films / f"{clip}.{extension}")
    if votes:
        (folder / "processedResults").mkdir()
        lines = [f'"{number}","{clip}","A","60.5","H:N","50:51","A","70"' for number, clip in enumerate(chosen)]
        head = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"'
        (folder / "processedResults" / "summaryTable.csv").write_text("\n".join([head, *lines]) + "\n")
        actors = sorted({clip[:4] for clip in chosen})
        people = [f'{actor},{20 + int(actor) % 50},"Female","Asian","Not Hispanic"' for actor in actors]
        (folder / "VideoDemographics.csv").write_text(
            "\n".join(['"ActorID","Age","Sex","Race","Ethnicity"', *people]) + "\n"
        )
    return folder


def ave_lists() -> dict[str, str]:
    """The real lists where they are at hand, else some of the same format, two-event videos and a video in two splits included."""
    if (SHARED / "ave").is_dir():
        return {name: (SHARED / "ave" / name).read_text("utf-8") for name, _ in (*ave.LISTS.values(), ave.ANNOTATIONS)}
    rng = np.random.default_rng(0)
    labels = [f"event {number}, of a kind" for number in range(28)]
    ids = ["".join(rng.choice(list("abcDEF_-01"), 11)) for _ in range(400)]
    lines = [f"{labels[number % 28]}&{video}&good&0&10" for number, video in enumerate(ids)]
    lines[300] = f"{labels[1]}&{ids[0]}&good&0&5"
    lines[399] = f"{labels[3]}&{ids[1]}&good&2&5"
    texts = {"trainSet.txt": lines[:320], "valSet.txt": lines[320:360], "testSet.txt": lines[360:]}
    texts["Annotations.txt"] = ["Category&VideoID&Quality&StartTime&EndTime", *lines]
    return {name: "\n".join(found) + "\n" for name, found in texts.items()}


def make_ave(folder: Path) -> Path:
    files = media(folder.parent / "media")
    folder.mkdir()
    videos = set()
    for name, text in ave_lists().items():
        (folder / name).write_text(text, "utf-8")
        videos |= {line.split("&")[1] for line in text.splitlines() if "&good&" in line}
    for video in sorted(videos):
        link(files["mp4"], folder / "AVE" / f"{video}.mp4")
    return folder


def kinetics_rows() -> list[tuple[str, str, str]]:
    """Split, clip and class name of every line of the lists."""
    return [
        (split, line.split(",")[0], kinetics_sounds.CLASSES[int(line.split(",")[2])])
        for split, (name, expected) in kinetics_sounds.LISTS.items()
        for line in shipped_list(name, expected)[0].splitlines()
    ]


def make_kinetics(folder: Path, rows=None, *, layout="{split}/{label}") -> Path:
    files = media(folder.parent / "media")
    for split, clip, label in kinetics_rows() if rows is None else rows:
        link(files["mp4"], folder / layout.format(split=split, label=label) / f"{clip}.mp4")
    return folder


BBAF2N = """0 23750 sil
23750 29500 bin
29500 34000 blue
34000 35500 at
35500 41000 f
41000 47250 two
47250 53000 now
53000 74500 sil
"""
"""The alignment of s1's sentence bbaf2n, as in the corpus."""


def grid_alignment(name: str) -> str:
    """The times of bbaf2n for the words of another sentence."""
    lines = [line.split() for line in BBAF2N.splitlines()]
    for line, character, words in zip(lines[1:-1], name, grid.SLOTS.values(), strict=True):
        line[2] = words[character]
    return "".join(f"{' '.join(line)}\n" for line in lines)


def grid_names(count: int, letters="abcdefghijklmnopqrstuvxyz") -> list[str]:
    """Sentences that say every letter equally often."""
    return [
        f"{'blps'[n % 4]}{'bgrw'[n // 4 % 4]}i{letter}{'z123456789'[n // 16]}a"
        for letter in letters
        for n in range(count)
    ]


def make_grid(
    folder: Path, names, *, talkers=("s1",), video="{talker}/{name}.mpg", alignment="alignments/{talker}/{name}.align"
):
    """The download of GRID: one real clip under every name."""
    folder.mkdir(parents=True)
    film = write_video(folder.parent / "sentence.mpg", seconds=3.0)
    for talker in talkers:
        for name in names:
            link(film, folder / video.format(talker=talker, name=name))
            path = folder / alignment.format(talker=talker, name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(grid_alignment(name))
    return folder
