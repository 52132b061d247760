"""`digits`, the embedded set: real handwriting with synthesised speech, some of it corrupted on purpose.

Sounds are eSpeak NG's (not recordings); images are MNIST digits; a pair shares its class and nothing else. Test voices
are never heard in training. Files and their origin: ``mm_balance/data/embedded/index.json``, ``tools/make_digits.py``.

Everything random is drawn from one data seed, never from a run's seed: all runs see the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mm_balance.data.dataset import MultimodalData, Split, channel_statistics
from mm_balance.data.decode import log_mel, read_gray_image
from mm_balance.errors import UserError
from mm_balance.types import InputSpec

VERSION = "digits-1"
CLASSES = tuple(str(digit) for digit in range(10))
SPLITS = {"tr": "train", "va": "val", "te": "test"}

CLIP = 6400  # samples of 8 kHz: 0.8 s
WINDOW, HOP, BANDS, FRAMES = 256, 100, 40, 64
SNR = (-5.0, 5.0)  # dB, white noise, uniform per clip
CANVAS = 36
DIGIT = (20.0, 28.0)  # pixels
PIECE = (8, 12)  # pixels of the distractor
IMAGE_NOISE = 0.15

AUDIO_KINDS = ("noise", "silence", "other_digit")
VISUAL_KINDS = ("noise", "other_digit")


def load_digits(*, visual_difficulty: float = 1.0, corruption: float = 0.1, seed: int = 0) -> MultimodalData:
    """The embedded set: 3,500 / 500 / 1,000 pairs, audio 1 x 40 x 64 (log-mel), visual 1 x 36 x 36 (0-1 plus noise).

    Args:
        visual_difficulty: in [0, 1]. 1: digits of 20-28 px at a random place, a distracting piece of another digit, image
            noise; audio dominates. 0: 28 px, centred, clean; vision dominates. In between, each of these in proportion.
        corruption: in [0, 0.5], share of the **training** samples that are corrupted in one modality, half of them in
            sound (noise, silence, another digit), half in the image (noise, another digit). Validation and test data stay
            as they are. The truth is in ``Split.corrupted``.
        seed: of the draw of data.

    Raises:
        UserError: a file is missing or differs from the one that was shipped.
    """
    index, folder = _checked_index()
    labels = np.asarray(index["label"])
    waves = _utterances(index, folder)
    tiles = _tiles(index, folder)
    split = np.asarray([SPLITS[name] for name in index["split"]])
    where, how = _plan_corruption(split == "train", corruption, seed)
    inputs = {
        "audio": _audio(waves, labels, where == "audio", how, split == "train", seed),
        "visual": _visual(tiles, labels, where == "visual", how, split == "train", visual_difficulty, seed),
    }
    splits = {}
    for name in SPLITS.values():
        places = np.flatnonzero(split == name)
        splits[name] = Split(
            name,
            {modality: values[places] for modality, values in inputs.items()},
            torch.from_numpy(labels[places]),
            [f"digits-{place:04d}" for place in places],
            where[places].tolist(),
            how[places].tolist(),
        )
    specs = {}
    for modality, values in splits["train"].inputs.items():
        mean, std = channel_statistics(values, channel=1)
        specs[modality] = InputSpec("sound" if modality == "audio" else "image", tuple(values.shape[1:]), mean, std)
    settings = {"version": VERSION, "visual_difficulty": visual_difficulty, "corruption": corruption, "seed": seed}
    return MultimodalData(
        name="digits",
        classes=CLASSES,
        specs=specs,
        splits=splits,
        digest=hashlib.sha256(json.dumps([settings, index["sha256"]], sort_keys=True).encode()).hexdigest(),
        recipe=f"{VERSION}: 8 kHz, 0.8 s, {BANDS} log-mel bands x {FRAMES} frames; images {CANVAS} x {CANVAS}; "
        f"visual_difficulty {visual_difficulty:g}, corruption {corruption:g}",
        truth_known=True,
        counts={**{name: len(part) for name, part in splits.items()}, "corrupted": int((where != "").sum())},
        source="Embedded `digits`: MNIST handwriting paired by class with speech synthesised by eSpeak NG (not recorded "
        "together, not recordings).",
    )


def _checked_index() -> tuple[dict[str, Any], Path]:
    folder = Path(str(resources.files("mm_balance") / "data" / "embedded"))
    path = folder / "index.json"
    if not path.is_file():
        raise UserError(f"the embedded data are missing: no {path}; install MM-Balance again")
    index = json.loads(path.read_text("utf-8"))
    for name, expected in index["sha256"].items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise UserError(f"{file} is not the file that was shipped (SHA-256 differs); install MM-Balance again")
    return index, folder


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own per purpose, so that changing one leaves the others as they are."""
    return np.random.default_rng([seed, *purpose.encode()])


def _utterances(index: dict[str, Any], folder: Path) -> NDArray[np.float32]:
    """Every utterance in the middle of 0.8 s of silence, ``(samples, CLIP)``."""
    stream, _ = soundfile.read(folder / "speech.ogg", dtype="float32")
    clips = np.zeros((len(index["start"]), CLIP), dtype=np.float32)
    for place, (start, length) in enumerate(zip(index["start"], index["length"], strict=True)):
        offset = (CLIP - length) // 2
        clips[place, offset : offset + length] = stream[start : start + length]
    return clips


def _tiles(index: dict[str, Any], folder: Path) -> NDArray[np.float32]:
    """Every digit, ``(samples, 28, 28)``, 0 to 1."""
    high, wide = index["sheet"]
    sheet = read_gray_image(folder / "handwriting.png")
    return (sheet.reshape(high, 28, wide, 28).swapaxes(1, 2).reshape(-1, 28, 28) / 255).astype(np.float32)


def _plan_corruption(train: NDArray[np.bool_], share: float, seed: int) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Per sample the corrupted modality and the kind of corruption, ``""`` = clean; exact counts."""
    where = np.full(len(train), "", dtype="U8")
    how = np.full(len(train), "", dtype="U16")
    places = _generator(seed, "corruption").permutation(np.flatnonzero(train))
    count = round(share * train.sum())
    for modality, kinds, chosen in (
        ("audio", AUDIO_KINDS, places[: count // 2]),
        ("visual", VISUAL_KINDS, places[count // 2 : count]),
    ):
        where[chosen] = modality
        how[chosen] = [kinds[rank % len(kinds)] for rank in range(len(chosen))]
    return where, how


def _other_digit(
    labels: NDArray[np.int64], replaced: NDArray[np.bool_], donors: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For every replaced sample the place of a training sample of another class; all others keep their own."""
    source = np.arange(len(labels))
    for place in np.flatnonzero(replaced):
        source[place] = generator.choice(np.flatnonzero(donors & (labels != labels[place])))
    return source


def _audio(
    waves: NDArray[np.float32],
    labels: NDArray[np.int64],
    corrupted: NDArray[np.bool_],
    how: NDArray[np.str_],
    train: NDArray[np.bool_],
    seed: int,
) -> Tensor:
    """Speech in noise as log-mel spectrograms, ``(samples, 1, 40, 64)``."""
    generator = _generator(seed, "audio")
    noise = generator.standard_normal(waves.shape, dtype=np.float32)
    decibel = generator.uniform(*SNR, len(waves)).astype(np.float32)
    waves = waves[_other_digit(labels, corrupted & (how == "other_digit"), train, generator)]
    spoken = np.abs(waves) > 0
    power = (waves**2).sum(axis=1) / spoken.sum(axis=1)
    noise *= np.sqrt(power * 10 ** (-decibel / 10))[:, None]
    waves = waves.copy()
    waves[corrupted & np.isin(how, ("noise", "silence"))] = 0
    noise[corrupted & (how == "silence")] *= 1e-3
    mixed = waves + noise
    # One loudness for all, so that the signal-to-noise ratio does not show in the level; silence stays silent.
    level = np.sqrt((mixed**2).mean(axis=1, keepdims=True))
    level[corrupted & (how == "silence")] = np.median(level)
    spectra = log_mel(torch.from_numpy(0.1 * mixed / level), rate=8000, window=WINDOW, hop=HOP, bands=BANDS)
    return spectra[..., :FRAMES].contiguous()


def _visual(
    tiles: NDArray[np.float32],
    labels: NDArray[np.int64],
    corrupted: NDArray[np.bool_],
    how: NDArray[np.str_],
    train: NDArray[np.bool_],
    difficulty: float,
    seed: int,
) -> Tensor:
    """Digits on a canvas, ``(samples, 1, 36, 36)``. All draws are made at any difficulty, so that it only scales them."""
    generator = _generator(seed, "visual")
    count = len(tiles)
    size = DIGIT[1] - difficulty * (DIGIT[1] - generator.uniform(*DIGIT, count))
    centre = generator.uniform(-1.0, 1.0, (count, 2)) * difficulty * (CANVAS - size)[:, None] / 2
    pieces = _pieces(tiles, generator)
    noise = generator.standard_normal((count, CANVAS, CANVAS), dtype=np.float32)
    source = _other_digit(labels, corrupted & (how == "other_digit"), train, generator)
    canvas = _place(torch.from_numpy(tiles[source]), torch.from_numpy(size), torch.from_numpy(centre))
    canvas = torch.maximum(canvas, difficulty * pieces)
    canvas[torch.from_numpy(corrupted & (how == "noise"))] = 0
    strength = np.full(count, IMAGE_NOISE * difficulty, dtype=np.float32)
    # A corrupted image is noise at any difficulty.
    strength[corrupted & (how == "noise")] = np.maximum(IMAGE_NOISE, strength[corrupted & (how == "noise")])
    return (canvas + torch.from_numpy(noise * strength[:, None, None])).unsqueeze(1).contiguous()


def _place(tiles: Tensor, size: Tensor, centre: Tensor) -> Tensor:
    """Scale every 28 x 28 tile to ``size`` pixels and put it ``centre`` pixels off the middle: ``(samples, 36, 36)``."""
    scale = CANVAS / size
    theta = torch.zeros(len(tiles), 2, 3, dtype=torch.float64)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = -centre * (2 / CANVAS) * scale[:, None]
    grid = functional.affine_grid(theta.float(), [len(tiles), 1, CANVAS, CANVAS], align_corners=False)
    return functional.grid_sample(tiles.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _pieces(tiles: NDArray[np.float32], generator: np.random.Generator) -> Tensor:
    """One square piece of another digit at a random place of an empty canvas each, ``(samples, 36, 36)``."""
    canvas = np.zeros((len(tiles), CANVAS, CANVAS), dtype=np.float32)
    donors = generator.permutation(len(tiles))
    sizes = generator.integers(PIECE[0], PIECE[1] + 1, len(tiles))
    for place, (donor, size) in enumerate(zip(donors, sizes, strict=True)):
        from_y, from_x = generator.integers(4, 25 - size, 2)
        to_y, to_x = generator.integers(0, CANVAS - size + 1, 2)
        canvas[place, to_y : to_y + size, to_x : to_x + size] = tiles[donor, from_y : from_y + size, from_x : from_x + size]
    return torch.from_numpy(canvas)
