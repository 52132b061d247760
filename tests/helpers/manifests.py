"""A small data set on disk, and how it is read."""

import csv
from dataclasses import replace

import numpy as np
import soundfile
import torch
from PIL import Image

from mm_balance.config import InputConfig
from mm_balance.data import DecodeSettings, load_manifest

HEADER = ["sample", "split", "label", "audio", "visual"]
OPTIONS = InputConfig(
    recipe="logmel64", clip_seconds=0.1, audio_fit="tile", resampler="soxr_hq", audio_normalization="train", image_size=8,
    frames=1, frames_per_second=10.0, frame_choice="random", augment="none", visual_normalization="train",
    sequence_steps=None,
)  # fmt: skip


def load(
    path,
    *,
    data_dir,
    progress=False,
    modalities=("audio", "visual"),
    seed=0,
    on_error="fail",
    allow_outside=False,
    label_separator=None,
    **options,
):
    return load_manifest(
        path,
        modalities=modalities,
        seed=seed,
        on_error=on_error,
        allow_outside=allow_outside,
        label_separator=label_separator,
        input_config=replace(OPTIONS, **options),
        work=DecodeSettings(data_dir, workers=1, progress=progress),
    )


def seen(split):
    """What the network sees of every sample, in evaluation."""
    index = torch.arange(len(split))
    return split.finish(split.read(index, None), index, None)


def levels(split):
    """The gray level of every picture."""
    return seen(split)["visual"][:, 0, 0, 0].tolist()


class Folder:
    """A small data set on disk whose parts a test spoils before it is written."""

    def __init__(self, path):
        self.path = path / "données ü 数据"
        self.path.mkdir()
        self.header = list(HEADER)
        self.rows = []
        self.encoding = "utf-8"

    def sound(self, name, *, rate=8000, seconds=0.2, pitch=300.0, **options):
        time = np.arange(int(rate * seconds)) / rate
        soundfile.write(self.path / name, 0.4 * np.sin(2 * np.pi * pitch * time), rate, **options)
        return name

    def image(self, name, level=100):
        Image.fromarray(np.full((12, 10, 3), level, np.uint8)).save(self.path / name)
        return name

    def add(self, split, label, *, group=None, **cells):
        number = len(self.rows)
        row = {
            "sample": f"s{number}",
            "split": split,
            "label": label,
            "audio": self.sound(f"{number}.wav", pitch=200 + 10 * number),
            "visual": self.image(f"{number}.png", 3 * number % 256),
        }
        self.rows.append({**row, **({} if group is None else {"group": group}), **cells})
        return self

    def fill(self, classes=("cat", "dog"), counts=(("train", 3), ("val", 1), ("test", 1))):
        for split, count in counts:
            for label in classes:
                for _ in range(count):
                    self.add(split, label)
        return self

    def write(self):
        target = self.path / "manifest.csv"
        with target.open("w", encoding=self.encoding, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.header)
            for row in self.rows:
                writer.writerow([row.get(name, "") for name in self.header])
        return target

    def load(self, **options):
        return load(self.write(), data_dir=self.path.parent / "data", **options)


class NoisyFolder(Folder):
    """The same with pictures of noise, not square, so that each step of their way to the network shows."""

    def image(self, name, level=100):
        pixels = np.random.default_rng(level).integers(0, 256, (31, 22, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.path / name)
        return name


def files_of(data, folder, split, modality):
    """The files of one modality, in the order of the split."""
    found = dict(zip(data.table["sample"], data.table[f"{modality}_file"], strict=True))
    return [folder.path / found[sample] for sample in data.splits[split].samples]
