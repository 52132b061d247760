"""`digits`, the embedded set: real handwriting paired with synthesized speech, part of it deliberately corrupted.

Sounds are synthesized by eSpeak NG (not recordings); images are MNIST digits; a pair shares nothing but its class. Test
voices do not occur in training. Files and their origin: ``mm_balance/data/embedded/index.json``, ``tools/make_digits.py``.

Everything random is drawn from one data seed, never from a run's seed: all runs get the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mm_balance.data.corruption import Corruption, Plan, generator_for, plan_corruption
from mm_balance.data.dataset import MultimodalData, Split, channel_statistics
from mm_balance.data.files import DecodeError
from mm_balance.data.frames import read_gray_image
from mm_balance.data.logmel import log_mel
from mm_balance.data.sound import read_sound
from mm_balance.errors import UserError
from mm_balance.input_kinds import IMAGE, SOUND
from mm_balance.types import InputSpec

VERSION = "digits-1"
FOLDER = Path(__file__).parent / "embedded"
CLASSES = tuple(str(digit) for digit in range(10))
SPLITS = {"tr": "train", "va": "val", "te": "test"}

INPUTS = {"audio": SOUND, "visual": IMAGE}
DEFAULT_CORRUPTION = Corruption(0.1)

RATE = 8000  # Hz
CLIP = 6400  # samples: 0.8 s
WINDOW, HOP, BANDS, FRAMES = 256, 100, 40, 64
SNR = (-10.0, 0.0)  # dB; white noise, uniform per clip
CANVAS = 36
DIGIT = (20.0, 28.0)  # pixels
PIECE = (8, 12)  # pixels; size of the distractor
IMAGE_NOISE = 0.15
LOUDNESS = 0.1  # RMS of every clip; noise is then 40 dB above the floor of the spectrogram
CHUNK = 250  # clips processed together; larger chunks do not fit the CPU cache


def load_digits(
    *, visual_difficulty: float = 1.0, corruption: Corruption = DEFAULT_CORRUPTION, seed: int = 0
) -> MultimodalData:
    """Load the embedded set: 3,500 / 500 / 1,000 pairs, audio 1 x 40 x 64 (log-mel), visual 1 x 36 x 36 (0-1 plus noise).

    Args:
        visual_difficulty: in [0, 1]. 1: digits of 20-28 px at a random position, a distracting piece of another digit,
            image noise; audio dominates. 0: 28 px, centered, clean; vision dominates. Values in between interpolate
            linearly. The sounds do not depend on it.
        corruption: what to corrupt in the **training** samples, in the signals themselves: a sound is replaced before noise is
            added and its spectrogram computed, an image before it is pasted. Validation and test data are not corrupted. The
            ground truth is in ``Split.corrupted``.
        seed: data seed.

    Raises:
        UserError: a value is out of range; a file is missing or differs from the one that was shipped.
    """
    if not 0.0 <= visual_difficulty <= 1.0:
        raise UserError(f"visual_difficulty={visual_difficulty}: give a number from 0 to 1")
    index, files = _checked_files(FOLDER)
    labels = np.asarray(index["label"])
    split = np.asarray([SPLITS[name] for name in index["split"]])
    train = np.flatnonzero(split == "train")
    plan = plan_corruption(labels[train], INPUTS, corruption, seed=seed)
    inputs = {
        "audio": _audio(_utterances(index, files), _Planned.of(plan, "audio", train, len(split)), seed),
        "visual": _visual(
            _tiles(index, files), _Planned.of(plan, "visual", train, len(split)), split, visual_difficulty, seed
        ),
    }
    labels[train] = plan.labels
    splits = {}
    for name in SPLITS.values():
        indices = np.flatnonzero(split == name)
        clean = [""] * len(indices)
        splits[name] = Split(
            name,
            {modality: values[indices] for modality, values in inputs.items()},
            torch.from_numpy(labels[indices]),
            [_sample_id(int(index)) for index in indices],
            plan.modality.tolist() if name == "train" else clean,
            plan.kind.tolist() if name == "train" else clean,
        )
    specs = {}
    for modality, values in splits["train"].inputs.items():
        mean, std = channel_statistics(values, channel=1)
        specs[modality] = InputSpec(INPUTS[modality], tuple(values.shape[1:]), mean, std)
    settings = {
        "version": VERSION,
        "constants": [CLIP, WINDOW, HOP, BANDS, FRAMES, SNR, LOUDNESS, CANVAS, DIGIT, PIECE, IMAGE_NOISE],
        "visual_difficulty": visual_difficulty,
        "corruption": corruption.share,
        "seed": seed,
    }
    if (corruption.kind, corruption.modality) != (DEFAULT_CORRUPTION.kind, DEFAULT_CORRUPTION.modality):
        settings["corrupted"] = [corruption.kind, corruption.modality]
    data = MultimodalData(
        name="digits",
        classes=CLASSES,
        specs=specs,
        splits=splits,
        # The index has labels, splits and hashes of the media. It is hashed as parsed, so that line endings do not matter.
        digest=hashlib.sha256(json.dumps([settings, index], sort_keys=True).encode()).hexdigest(),
        recipe=f"{VERSION}: 8 kHz, 0.8 s, {BANDS} log-mel bands x {FRAMES} frames; images {CANVAS} x {CANVAS}; "
        f"visual_difficulty {visual_difficulty:g}, {corruption.text()}",
        truth_known=True,
        counts={
            **{name: len(part) for name, part in splits.items()},
            "skipped": 0,
            "corrupted": int((plan.modality != "").sum()),
        },
        source="Embedded digits: MNIST handwriting paired by class with speech synthesized by eSpeak NG (not "
        "recorded together, not recordings).",
    )
    return data.with_table()


def _checked_files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read the index and the files it lists, and check their hashes."""
    index_path = folder / "index.json"
    if not index_path.is_file():
        raise UserError(f"{index_path} is missing; install MM-Balance again")
    try:
        index = json.loads(index_path.read_text("utf-8"))
        hashes = index["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index_path} is not the file that was shipped; install MM-Balance again") from error
    files = {}
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; install MM-Balance again")
        files[name] = path.read_bytes()
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UserError(f"{path} is not the file that was shipped (SHA-256 differs); install MM-Balance again")
    return index, files


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a separate random stream per purpose, so that changing one does not affect the others."""
    return np.random.default_rng([seed, *purpose.encode()])


def _utterances(index: dict[str, Any], files: dict[str, bytes]) -> NDArray[np.float32]:
    """Center each utterance in 0.8 s of silence: ``(samples, CLIP)``."""
    try:
        stream, _ = read_sound(files["speech.ogg"])
    except DecodeError as error:
        raise UserError(f"{FOLDER / 'speech.ogg'}: {error}; reinstall soundfile, which brings libsndfile") from error
    clips = np.zeros((len(index["start"]), CLIP), dtype=np.float32)
    for number, (start, length) in enumerate(zip(index["start"], index["length"], strict=True)):
        offset = (CLIP - length) // 2
        clips[number, offset : offset + length] = stream[start : start + length]
    return clips


def _tiles(index: dict[str, Any], files: dict[str, bytes]) -> NDArray[np.float32]:
    """Return all digit images, ``(samples, 28, 28)``, 0 to 1."""
    high, wide = index["sheet"]
    sheet = read_gray_image(files["handwriting.png"])
    return (sheet.reshape(high, 28, wide, 28).swapaxes(1, 2).reshape(-1, 28, 28) / 255).astype(np.float32)


@dataclass(frozen=True)
class _Planned:
    """The corruption of one modality over the samples of all splits.

    Attributes:
        noise: ``(samples,)`` bool, nothing but noise.
        blank: ``(samples,)`` bool, nothing at all.
        source: ``(samples,)`` int64, the sample whose signal each one gets.
    """

    noise: NDArray[np.bool_]
    blank: NDArray[np.bool_]
    source: NDArray[np.int64]

    @classmethod
    def of(cls, plan: Plan, modality: str, train: NDArray[np.int64], samples: int) -> _Planned:
        """Spread the plan for the training samples, which are at ``train``, over all of them."""
        noise, blank = np.zeros((2, samples), dtype=bool)
        source = np.arange(samples)
        noise[train] = plan.where(modality, "noise")
        blank[train] = plan.where(modality, "blank")
        source[train] = train[plan.sources[modality]]
        return cls(noise, blank, source)


def _audio(waves: NDArray[np.float32], planned: _Planned, seed: int) -> Tensor:
    """Compute log-mel spectrograms of noisy speech, ``(samples, 1, 40, 64)``."""
    return torch.cat(
        [
            log_mel(torch.from_numpy(mixed), rate=RATE, window=WINDOW, hop=HOP, bands=BANDS)[..., :FRAMES]
            for mixed in _noisy(waves, planned, seed)
        ]
    )


def _noisy(waves: NDArray[np.float32], planned: _Planned, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield the noisy clips, ``CHUNK`` at a time: ``(clips, CLIP)``."""
    generator = generator_for(seed, "audio")
    decibel = generator.uniform(*SNR, len(waves)).astype(np.float32)
    for chunk in np.split(np.arange(len(waves)), range(CHUNK, len(waves), CHUNK)):
        speech = waves[planned.source[chunk]]
        noise = generator.standard_normal(speech.shape, dtype=np.float32)
        # The signal-to-noise ratio refers to the power of the utterance without the silence around it.
        power = np.square(speech).sum(axis=1) / np.count_nonzero(speech, axis=1)
        noise *= np.sqrt(power * 10 ** (-decibel[chunk] / 10))[:, None]
        speech[(planned.noise | planned.blank)[chunk]] = 0
        mixed = speech + noise
        # All clips have the same loudness, so that the level does not reveal the signal-to-noise ratio.
        mixed *= LOUDNESS / np.sqrt(np.square(mixed).mean(axis=1, keepdims=True))
        mixed[planned.blank[chunk]] = 0
        yield mixed


def digits_sounds(samples: Collection[str], *, corruption: Corruption, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return the sounds of some samples of ``load_digits``, as its spectrograms have them: noisy and, where planted, corrupted.

    Args:
        samples: sample ids.
        corruption: as given to ``load_digits``.
        seed: data seed.

    Returns:
        Sample id -> ``(CLIP,)`` at ``RATE`` Hz, full scale 1.

    Raises:
        UserError: as ``load_digits``.
    """
    index, files = _checked_files(FOLDER)
    labels = np.asarray(index["label"])
    train = np.flatnonzero(np.asarray(index["split"]) == "tr")
    plan = plan_corruption(labels[train], INPUTS, corruption, seed=seed)
    chunks = _noisy(_utterances(index, files), _Planned.of(plan, "audio", train, len(labels)), seed)
    wanted = set(samples)
    numbered = enumerate(clip for chunk in chunks for clip in chunk)
    return {name: clip.copy() for number, clip in numbered if (name := _sample_id(number)) in wanted}


def _sample_id(number: int) -> str:
    return f"digits-{number:04d}"


def _visual(
    tiles: NDArray[np.float32], planned: _Planned, split: NDArray[np.str_], difficulty: float, seed: int
) -> Tensor:
    """Render digits on a canvas, ``(samples, 1, 36, 36)``. Random draws do not depend on the difficulty; it only scales them."""
    generator = generator_for(seed, "visual")
    count = len(tiles)
    size = DIGIT[1] - difficulty * (DIGIT[1] - generator.uniform(*DIGIT, count))
    center = generator.uniform(-1.0, 1.0, (count, 2)) * difficulty * (CANVAS - size)[:, None] / 2
    pieces = _pieces(tiles, split, generator)
    noise = generator.standard_normal((count, CANVAS, CANVAS), dtype=np.float32)
    canvas = _paste(torch.from_numpy(tiles[planned.source]), torch.from_numpy(size), torch.from_numpy(center))
    canvas = torch.maximum(canvas, difficulty * pieces)
    canvas[torch.from_numpy(planned.noise | planned.blank)] = 0
    noise_std = np.full(count, IMAGE_NOISE * difficulty, dtype=np.float32)
    # A corrupted image is pure noise at any difficulty.
    noise_std[planned.noise] = np.maximum(IMAGE_NOISE, noise_std[planned.noise])
    noise_std[planned.blank] = 0
    return (canvas + torch.from_numpy(noise * noise_std[:, None, None])).unsqueeze(1).contiguous()


def _paste(tiles: Tensor, size: Tensor, center: Tensor) -> Tensor:
    """Scale each 28 x 28 tile to ``size`` pixels and paste it ``center`` pixels off the middle: ``(samples, 36, 36)``."""
    scale = CANVAS / size
    theta = torch.zeros(len(tiles), 2, 3, dtype=torch.float64)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = -center * (2 / CANVAS) * scale[:, None]
    grid = functional.affine_grid(theta.float(), [len(tiles), 1, CANVAS, CANVAS], align_corners=False)
    return functional.grid_sample(tiles.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _pieces(tiles: NDArray[np.float32], split: NDArray[np.str_], generator: np.random.Generator) -> Tensor:
    """Place one square piece of another digit at a random position of each empty canvas: ``(samples, 36, 36)``."""
    canvas = np.zeros((len(tiles), CANVAS, CANVAS), dtype=np.float32)
    donors = np.arange(len(tiles))
    for name in np.unique(split):  # within a split: no piece of a test digit occurs in training
        members = np.flatnonzero(split == name)
        donors[members] = generator.permutation(members)
    sizes = generator.integers(PIECE[0], PIECE[1] + 1, len(tiles))
    for number, (donor, size) in enumerate(zip(donors, sizes, strict=True)):
        from_y, from_x = generator.integers(4, 25 - size, 2)
        to_y, to_x = generator.integers(0, CANVAS - size + 1, 2)
        piece = tiles[donor, from_y : from_y + size, from_x : from_x + size]
        canvas[number, to_y : to_y + size, to_x : to_x + size] = piece
    return torch.from_numpy(canvas)
