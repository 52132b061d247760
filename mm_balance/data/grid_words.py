"""Cut words out of the sentences of GRID: one small Matroska file per word, with its sound and a crop of the mouth.

A manifest names files, not parts of files, so the words become files of their own, beside a manifest that names them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from mm_balance.data.files import DecodeError, open_regular
from mm_balance.data.memory import limited_memory, memory_errors_named
from mm_balance.data.readers.base import RawRow, RawSet, sort_rows, write_manifest
from mm_balance.data.readers.grid import (
    FAILURES,
    MANIFEST,
    NAME,
    SETTINGS,
    UNITS_PER_SECOND,
    BadSentence,
    Sentence,
    find_sentences,
    sentence_splits,
    spoken_word,
)
from mm_balance.data.sound import (
    RESAMPLER_MARGIN,
    open_container,
    read_sound_file,
    resample,
    set_up_decoder,
    tracks_of,
)
from mm_balance.data.workers import Rescue, results
from mm_balance.errors import UserError, reason

FRAMES_PER_SECOND = 25
UNITS_PER_FRAME = UNITS_PER_SECOND // FRAMES_PER_SECOND
SOUND_RATE = 16_000
TYPICAL_MOUTH = (0.49, 0.74)
"""Center of the mouth where nothing moves, in shares of the frame's width and height."""
SEARCHED = (0.33, 0.67, 0.62, 0.88)
"""Left, right, top and bottom of the part of the frame that mouths are in; the talkers of GRID are framed alike."""
MOUTH = (0.1, 1 / 18)
"""Width and height of a mouth."""
CLIPS_PER_TALKER = 15
"""Sentences from which the mouth of a talker is found."""
LOOKED_AT = 500
"""Frames in which the mouth is looked for; a sentence has 75."""
CHUNK = 8
"""Sentences per worker task."""


@dataclass(frozen=True)
class Cut:
    """What is cut out of a sentence.

    Attributes:
        slot: which word, a key of ``SLOTS``.
        margin: seconds before and after the word; the result is widened to whole video frames.
        crop: side of the square around the mouth, as a share of the frame's height.
        edge: side of the square in the result, pixels.
        mouth: center of the mouth for all talkers, in shares of the frame's width and height; None = found per talker.
    """

    slot: str = "letter"
    margin: float = 0.12
    crop: float = 0.3125
    edge: int = 96
    mouth: tuple[float, float] | None = None


@dataclass(frozen=True)
class Word:
    """A word of a sentence; ``start`` and ``end`` in units of 1/25000 s."""

    sentence: Sentence
    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Task:
    """Words to cut into files. ``mouths``: talker -> center of the mouth; a talker who is not in it is looked at clip by clip."""

    words: tuple[tuple[Word, Path], ...]
    mouths: dict[str, tuple[float, float]]
    cut: Cut


def is_words(source: Path) -> bool:
    """Return whether ``source`` is a folder that ``cut_words`` has written, or one of the same form."""
    return (source / MANIFEST).is_file()


def cut_words(
    source: Path,
    target: Path,
    cut: Cut | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Cut a word out of every sentence of the download in ``source``; words that are in ``target`` already are kept.

    Writes ``<slot>/<talker>_<sentence>.mkv`` (Motion JPEG, ``edge`` x ``edge`` at 25 frames per second, and FLAC, 16 kHz mono),
    then the manifest, and the sentences that could not be cut with the reason. Each file is replaced atomically, so an
    interrupted call is continued by the next one. Sound and picture are taken to start together, as they do in the corpus.

    Args:
        source: the download, see ``mm_balance.data.readers.grid``.
        target: folder of the words; created if missing.
        cut: what is cut out.
        workers: processes; None = one per core; 1 = in this process.
        progress: show a progress bar.
        stop: polled between chunks of sentences.

    Returns:
        One line per sentence that could not be cut.

    Raises:
        Interrupted: ``stop`` returned True.
        UserError: ``source`` is not the download; ``target`` has words that were cut in another way, or cannot be written.
    """
    cut = cut or Cut()
    corpus = find_sentences(source)
    words, failures = _words(corpus.sentences, cut.slot)
    failures += corpus.missing
    try:
        (target / cut.slot).mkdir(parents=True, exist_ok=True)
        mouths = _settings(target, cut)
        files = {word: target / _file(word.sentence, cut.slot) for word in words}
        todo = [word for word in words if not files[word].is_file()]
        count = workers or max(1, min(os.cpu_count() or 1, len(todo) // CHUNK))
        if cut.mouth is None:
            mouths |= _find_mouths(todo, mouths, count, stop)
        settings = {"cut": asdict(cut), "mouths": mouths, "notes": corpus.notes}
        _write_text(target / SETTINGS, json.dumps(settings, indent=1) + "\n")
        tasks = [
            Task(tuple((word, files[word]) for word in todo[start : start + CHUNK]), mouths, cut)
            for start in range(0, len(todo), CHUNK)
        ]
        with tqdm(
            total=len(todo), desc="cutting", unit="word", disable=not (progress and todo), mininterval=0.5
        ) as bar:
            for task, failed in zip(tasks, results(_cut_all, tasks, count, stop, CUT_RESCUE), strict=True):
                failures += failed
                bar.update(len(task.words))
        failures.sort()
        _write_text(target / FAILURES, "".join(f"{line}\n" for line in failures))
        write_manifest(_raw_set(words, files, target, cut), target / MANIFEST)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); the words that are cut are kept"
        ) from error
    return failures


def _words(sentences: Sequence[Sentence], slot: str) -> tuple[list[Word], list[str]]:
    words, failures = [], []
    for sentence in sentences:
        try:
            with open_regular(sentence.alignment) as file:
                text = file.read().decode("utf-8-sig")
            words.append(Word(sentence, *spoken_word(text, sentence.name, slot)))
        except BadSentence as error:
            failures.append(f"sentence {sentence.id!r}: {error}")
        except (DecodeError, OSError, UnicodeDecodeError) as error:
            failures.append(f"sentence {sentence.id!r}: {sentence.alignment.name} cannot be read ({reason(error)})")
    return words, failures


def _file(sentence: Sentence, slot: str) -> str:
    return f"{slot}/{sentence.id}.mkv"


def _settings(target: Path, cut: Cut) -> dict[str, tuple[float, float]]:
    """Return the mouths that an earlier call found. Raises UserError if it cut in another way."""
    path = target / SETTINGS
    if not path.is_file():
        return {}
    earlier = json.loads(path.read_text("utf-8"))
    if earlier["cut"] != json.loads(json.dumps(asdict(cut))):
        before = ", ".join(f"{name}={value}" for name, value in earlier["cut"].items())
        raise UserError(f"{target} contains words that were cut with {before}; give another folder, or delete this one")
    return {talker: (center[0], center[1]) for talker, center in earlier["mouths"].items()}


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def _raw_set(words: Sequence[Word], files: dict[Word, Path], target: Path, cut: Cut) -> RawSet:
    present = [word for word in words if files[word].is_file()]
    splits = sentence_splits({(word.sentence.talker, word.sentence.name): word.label for word in present})
    rows = []
    for word in present:
        sentence = word.sentence
        file = _file(sentence, cut.slot)
        # The slot belongs to the id: the words of two slots may lie in one store.
        rows.append(
            RawRow(
                sample=f"{sentence.id}_{cut.slot}",
                split=splits[sentence.talker, sentence.name],
                label=word.label,
                files={"audio": file, "visual": file},
                group=sentence.id,
            )
        )
    return RawSet(NAME, "published", sort_rows(rows), [], [], {}, [], "")


def _find_mouths(
    words: Sequence[Word], known: dict[str, tuple[float, float]], workers: int, stop: Callable[[], bool]
) -> dict[str, tuple[float, float]]:
    """Return the mouth of each new talker: the median over some clips, so that one crop fits all clips of a talker."""
    videos: dict[str, list[Path]] = {}
    for word in words:
        talker = word.sentence.talker
        if talker and talker not in known and len(videos.setdefault(talker, [])) < CLIPS_PER_TALKER:
            videos[talker].append(word.sentence.video)
    mouths = {}
    count = min(workers, max(1, len(videos)))
    for talker, centers in results(_talker_mouths, videos.items(), count, stop, MOUTHS_RESCUE):
        if centers:
            x, y = np.median(centers, axis=0).tolist()
            mouths[talker] = round(x, 4), round(y, 4)
    return mouths


def _talker_mouths(task: tuple[str, list[Path]]) -> tuple[str, list[tuple[float, float]]]:
    talker, videos = task
    centers = []
    for video in videos:
        try:
            with limited_memory():
                centers.append(find_mouth(read_gray(video)))
        except (DecodeError, OSError):  # named when the word is cut
            continue
    return talker, centers


MOUTHS_RESCUE: Rescue[tuple[str, list[Path]], tuple[str, list[tuple[float, float]]]] = Rescue(
    divide=lambda task: [(task[0], [video]) for video in task[1]] if len(task[1]) > 1 else [],
    join=lambda found: (found[0][0], [center for _, centers in found for center in centers]),
    failed=lambda task, reason, at: (task[0], []),
)
"""For ``_talker_mouths``: a video at which processes die is left out, and named when the word is cut."""


def find_mouth(frames: np.ndarray) -> tuple[float, float]:
    """Find the mouth of a talker: of all places where a mouth may be, the one that changes most from frame to frame.

    Args:
        frames: ``(frames, height, width)`` uint8, gray.

    Returns:
        Its center in shares of the width and the height; the typical one if nothing moves.
    """
    _, height, width = frames.shape
    left, right, top, bottom = (
        round(share * side) for share, side in zip(SEARCHED, (width, width, height, height), strict=True)
    )
    part = frames[:, top:bottom, left:right].astype(np.float32)
    motion = np.abs(np.diff(part, axis=0)).sum(0)
    if not motion.any():
        return TYPICAL_MOUTH
    box_width, box_height = (max(1, round(share * side)) for share, side in zip(MOUTH, (width, height), strict=True))
    # Sum of the motion in every box, from cumulative sums.
    sums = np.pad(motion.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    boxes = (
        sums[box_height:, box_width:] - sums[:-box_height, box_width:] - sums[box_height:, :-box_width]
        + sums[:-box_height, :-box_width]
    )  # fmt: skip
    y, x = np.unravel_index(boxes.argmax(), boxes.shape)
    return (left + int(x) + box_width / 2) / width, (top + int(y) + box_height / 2) / height


def _cut_all(task: Task) -> list[str]:
    """Cut the words of a task and return one line per failure."""
    failures = []
    for word, path in task.words:
        try:
            center = task.cut.mouth or task.mouths.get(word.sentence.talker)
            with limited_memory():
                pictures, sound = read_word(word, task.cut, center)
        except DecodeError as error:
            failures.append(f"sentence {word.sentence.id!r}: {word.sentence.video.name}: {error}")
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            failures.append(f"sentence {word.sentence.id!r}: {word.sentence.video.name}: {reason}")
        else:
            write_clip(path, pictures, sound)
    return failures


CUT_RESCUE: Rescue[Task, list[str]] = Rescue(
    divide=lambda task: [replace(task, words=(item,)) for item in task.words] if len(task.words) > 1 else [],
    join=lambda failures: [line for part in failures for line in part],
    failed=lambda task, reason, at: [
        f"sentence {word.sentence.id!r}: {word.sentence.video.name}: {reason}" for word, _ in task.words
    ],
)
"""For ``_cut_all``: a video at which processes die is a failure of its sentence."""


@memory_errors_named()
def read_word(word: Word, cut: Cut, center: tuple[float, float] | None) -> tuple[list[Image.Image], np.ndarray]:
    """Decode the part of a video that contains a word.

    Args:
        word: the word.
        cut: what is cut out.
        center: center of the mouth, in shares of the frame's width and height; None = found in this clip.

    Returns:
        The crops of the mouth, one per frame, and ``(samples,)`` float32, 16 kHz, of the same length.

    Raises:
        DecodeError: no video or sound track, not 25 frames per second, truncated before the end of the word, or another
            reason, stated in the message.
        OSError: the file cannot be opened.
    """
    margin = round(cut.margin * UNITS_PER_SECOND)
    first = max(0, (word.start - margin) // UNITS_PER_FRAME)
    end = -(-(word.end + margin) // UNITS_PER_FRAME)
    video = word.sentence.video
    center = center or find_mouth(read_gray(video))
    pictures = []
    for number, frame in enumerate(_frames(video)):
        if number >= end:
            break
        if number >= first:
            pictures.append(_crop(frame.to_image(threads=1), center, cut))
    if (first + len(pictures)) * UNITS_PER_FRAME < word.end:
        raise DecodeError(
            f"the video ends before {word.label!r} does, at {word.end / UNITS_PER_SECOND:.2f} s by the alignment"
        )
    sound, facts = read_sound_file(video, seconds=end / FRAMES_PER_SECOND + RESAMPLER_MARGIN)
    sound = resample(sound, facts.rate, SOUND_RATE)
    samples = SOUND_RATE // FRAMES_PER_SECOND
    piece = sound[first * samples : (first + len(pictures)) * samples]
    if len(sound) * UNITS_PER_SECOND < word.end * SOUND_RATE:
        raise DecodeError(
            f"the sound ends before {word.label!r} does, at {word.end / UNITS_PER_SECOND:.2f} s by the alignment"
        )
    return pictures, np.pad(piece, (0, len(pictures) * samples - len(piece)))


@memory_errors_named()
def read_gray(path: Path) -> np.ndarray:
    """Decode the beginning of a video, at most ``LOOKED_AT`` frames, to ``(frames, height, width)`` uint8.

    Raises:
        DecodeError: no video, no frame, or not enough memory.
        OSError: it cannot be opened.
    """
    frames = [frame.to_ndarray(format="gray") for frame in islice(_frames(path), LOOKED_AT)]
    if not frames:
        raise DecodeError("no frame can be decoded")
    return np.stack(frames)


def _frames(path: Path) -> Iterator[Any]:
    """Yield the frames of a video; it ends early where the file is damaged."""
    with open_container(path) as container:
        if not container.streams.video:
            raise DecodeError(f"no video track (it has {tracks_of(container)})")
        stream = container.streams.video[0]
        set_up_decoder(stream)
        rate = float(stream.average_rate or stream.guessed_rate or FRAMES_PER_SECOND)
        if abs(rate - FRAMES_PER_SECOND) > 0.1:
            raise DecodeError(f"{rate:g} frames per second, but the videos of GRID have {FRAMES_PER_SECOND}")
        try:
            yield from container.decode(stream)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            return


def _crop(image: Image.Image, center: tuple[float, float], cut: Cut) -> Image.Image:
    """Cut out the square around ``center``, moved into the frame where it would leave it."""
    side = min(round(cut.crop * image.height), image.width, image.height)
    left = min(max(0, round(center[0] * image.width - side / 2)), image.width - side)
    top = min(max(0, round(center[1] * image.height - side / 2)), image.height - side)
    part = image.crop((left, top, left + side, top + side))
    return part if part.size == (cut.edge, cut.edge) else part.resize((cut.edge, cut.edge), Image.Resampling.BICUBIC)


def write_clip(path: Path, pictures: Sequence[Image.Image], sound: np.ndarray) -> None:
    """Write pictures (25 per second) and sound (16 kHz, full scale 1) to a Matroska file, atomically.

    The same input gives the same bytes.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with av.open(str(partial), "w", format="matroska", options={"fflags": "bitexact"}) as container:
            exact = {"flags": "bitexact"}
            video = container.add_stream("mjpeg", rate=FRAMES_PER_SECOND, options=exact | {"qmin": "3", "qmax": "3"})
            video.width, video.height = pictures[0].size
            video.pix_fmt = "yuvj420p"
            audio = container.add_stream("flac", rate=SOUND_RATE, options=exact)
            audio.codec_context.layout, audio.codec_context.format = "mono", "s16"
            values = (np.clip(sound, -1, 1) * 32767).round().astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
            fifo = av.AudioFifo()
            fifo.write(block)
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_image(picture)
                frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
                container.mux(video.encode(frame))
            size = audio.codec_context.frame_size or len(sound)
            while (piece := fifo.read(size, partial=True)) is not None:
                container.mux(audio.encode(piece))
            container.mux(video.encode(None))
            container.mux(audio.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
