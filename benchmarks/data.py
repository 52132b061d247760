"""Data loading: the official loader, which reads files every epoch, against the store. One core, files shaped like CREMA-D.

Official: GeWu-Lab/OGM-GE_CVPR2022@343dc1d, dataset/CramedDataset.py: for every sample of every epoch, librosa loads and
resamples the WAV and computes the transform, and Pillow opens one extracted JPEG frame (480 x 360), which torchvision crops,
resizes, flips and normalizes. Reimplemented here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import median_seconds
from mm_balance.config import InputConfig
from mm_balance.data import BatchLoader, DecodeSettings, load_manifest
from mm_balance.data.recipe import stored_recipe
from mm_balance.data.store import build_store
from mm_balance.models import MultimodalNetwork

CLIPS = 192
BATCH = 64
OPTIONS = InputConfig(
    recipe="stft257", clip_seconds=3.0, audio_fit="tile", resampler="soxr_hq", audio_normalization="none", image_size=224,
    frames=1, frames_per_second=1.0, frame_choice="random", augment="resized_crop_flip", visual_normalization="imagenet",
)  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_files(folder: Path) -> Path:
    """Write WAVs of 2-3 s at 16 kHz, JPEGs and videos of 480 x 360, and one manifest each for JPEGs and videos."""
    import soundfile
    from PIL import Image

    from tests.helpers.media import write_video

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (CLIPS, 30, 40, 3), dtype=np.uint8)
    lines = {"jpg": ["sample,split,label,audio,visual"], "flv": ["sample,split,label,audio,visual"]}
    for number in range(CLIPS):
        seconds = 2 + (number % 10) / 10
        soundfile.write(folder / f"{number}.wav", 0.2 * rng.standard_normal(int(16_000 * seconds)), 16_000)
        picture = Image.fromarray(small[number]).resize((480, 360), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
        if number < 24:
            write_video(folder / f"{number}.flv", seconds=seconds, rate=30, size=(480, 360))
        else:
            os.link(folder / f"{number % 24}.flv", folder / f"{number}.flv")
        split = "train" if number < CLIPS - 8 else "val" if number < CLIPS - 4 else "test"
        for kind, table in lines.items():
            table.append(f"{number},{split},{'abcdef'[number % 6]},{number}.wav,{number}.{kind}")
    for kind, table in lines.items():
        (folder / f"{kind}.csv").write_text("\n".join(table) + "\n")
    return folder


def official_sample(folder: Path, number: int, transform: Callable) -> tuple[np.ndarray, torch.Tensor]:
    """Load one training sample like the official loader."""
    import librosa
    from PIL import Image

    audio, rate = librosa.load(folder / f"{number}.wav", sr=22_050)
    repeated = np.clip(np.tile(audio, 3)[: rate * 3], -1.0, 1.0)
    spectrum = np.log(np.abs(librosa.stft(repeated, n_fft=512, hop_length=353)) + 1e-7)
    return spectrum, transform(Image.open(folder / f"{number}.jpg").convert("RGB"))


def rows() -> list[tuple[str, float, str]]:
    """Measure all rows of the table, on a single thread."""
    from torchvision import transforms

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # the prefetching thread would use a second core
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    measurements: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_files(Path(temporary))
        official = CLIPS / median_seconds(
            lambda: [official_sample(folder, number, transform) for number in range(CLIPS)], 3
        )
        measurements.append(("official loader, WAV + JPEG, each epoch", official, "samples/s on a core"))
        for kind in ("jpg", "flv"):
            spent = prepare_seconds(folder, kind)
            measurements.append((f"prepare, WAV + .{kind}, one process", CLIPS / spent, "samples/s on a core"))
        measurements += store_rows(folder, official)
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    return [*measurements, *large_store_rows()]


def prepare_seconds(folder: Path, kind: str) -> float:
    """Return the median time of three runs to fill a new store; a first run absorbs the imports."""
    from mm_balance.data.manifest import RowErrors, find_files, read_rows

    path = folder / f"{kind}.csv"
    table = read_rows(path, ("audio", "visual"), RowErrors())
    _, columns, clips = find_files(folder, table, ("audio", "visual"), RowErrors())
    recipe = stored_recipe(OPTIONS, has_video=kind == "flv")

    def fill() -> None:
        store = Path(tempfile.mkdtemp(dir=folder))
        build_store(store, list(clips.values()), recipe, columns.kinds, workers=1, progress=False)

    return median_seconds(fill, 3)


def store_rows(folder: Path, official: float) -> list[tuple[str, float, str]]:
    """Measure batches from the store against a plain copy of the same number of bytes."""
    work = DecodeSettings(folder / "data", workers=1, progress=False)
    data = load_manifest(
        folder / "jpg.csv", modalities=("audio", "visual"), seed=0, on_error="fail", input_config=OPTIONS, work=work
    )
    train = data.splits["train"]
    network = MultimodalNetwork(data.specs, 6, encoder="resnet_narrow", fusion="concat")
    indices = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).split(BATCH)
    block = train.read(indices[0], torch.Generator().manual_seed(0))

    def read() -> None:
        for index in indices:
            train.read(index, torch.Generator().manual_seed(0))

    def copy() -> None:
        for _ in indices:
            for value in block.values():
                value.clone()

    def epoch(augment: str) -> None:
        view = train.views["visual"]
        view.transform = replace(view.transform, augment=augment)
        for batch in BatchLoader(train, BATCH, seed=0).epoch(0, torch.device("cpu")):
            network._normalize("visual", batch.inputs["visual"])

    reading, copying = (median_seconds(action, 7) for action in (read, copy))
    speeds = {
        name: len(train) / median_seconds(lambda name=name: epoch(name), 7)
        for name in ("resized_crop_flip", "crop_flip")
    }
    copied = copying * len(train) / (len(indices) * BATCH)  # the last batch is smaller than the others
    return [
        ("store -> uint8 batch", len(train) / reading, "samples/s on a core"),
        ("  against a plain copy of the same bytes", reading / copied, "times as long"),
        *(
            row
            for name, speed in speeds.items()
            for row in (
                (f"store -> augmented float batch, `{name}`", speed, "samples/s on a core"),
                ("  against the official loader", speed / official, "times as fast"),
            )
        ),
    ]


OPENING = """
import json, os, sys, time
from pathlib import Path
from mm_balance.data.store import open_store
import pyarrow.parquet, numpy
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
started = time.perf_counter()
store = open_store(Path(sys.argv[1]))
lines = store.line_index("sample")
seconds = time.perf_counter() - started
after = resident()
print(json.dumps({"seconds": seconds, "before": before, "after": after, "clips": len(lines)}))
"""


def large_store_rows(clips: int = 100_000) -> list[tuple[str, float, str]]:
    """Measure time and memory of opening a synthetic store of many clips (sparse files), in a separate process."""
    from mm_balance.data.growing_array import row_shapes, write_header
    from mm_balance.data.journal import Journal
    from mm_balance.data.store import finish

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe, kinds = stored_recipe(OPTIONS, has_video=True), {"audio": "sound", "visual": "image"}
        journal = Journal.read(folder, recipe, kinds)
        sound = {"seconds": 2.5, "rate": 16_000, "channels": 1, "mean": [-5.0], "square": [30.0], "sha256": "0" * 64}
        picture = {"seconds": 2.5, "rate": 30.0, "width": 480, "height": 360, "frames": 3, "mean": [0.5] * 3,
                   "square": [0.3] * 3, "sha256": "0" * 64}  # fmt: skip
        for number in range(clips):
            journal.add({"identity": f"{number:024x}", "sample": f"clip {number}", "row": number, "ok": True,
                          "audio": sound, "visual": picture})  # fmt: skip
        for name, (shape, dtype) in row_shapes(recipe, kinds).items():
            write_header(folder / f"{name}.npy", clips, shape, dtype)
        finish(folder, journal, recipe, kinds)
        done = subprocess.run([sys.executable, "-c", OPENING, str(folder)], capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout)
    assert measured["clips"] == clips
    return [
        (f"open a store of {clips:,} clips", measured["seconds"], "s"),
        ("  additional memory", (measured["after"] - measured["before"]) / 1e6, "MB resident"),
        ("  memory of the process after imports", measured["before"] / 1e6, "MB resident"),
    ]


if __name__ == "__main__":
    for name, value, unit in rows():
        print(f"{name:72s} {value:10.4g} {unit}")
