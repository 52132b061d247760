"""Logging of a run's data, and the card of a prepared data set: statistics, a contact sheet, the table of samples.

The card is written once, next to the store, when a run first logs the data set.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mm_balance import names
from mm_balance.config import stage_options
from mm_balance.data import READERS, MultimodalData, Split
from mm_balance.data.card import CardSample, data_card
from mm_balance.data.suggestions import as_words, suggested_settings
from mm_balance.errors import UserError
from mm_balance.figures import Figure, SheetSample, contact_sheet, save_png
from mm_balance.functional.labels import label_names, samples_by_class
from mm_balance.input_kinds import IMAGE, SEQUENCE, VECTOR, VIDEO
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import InputSpec

SHEET_SAMPLES = 12
TAG_LENGTH = 60
"""Characters of a tag: the page of a run hides the name of a tag that is much longer."""
CORRUPTED = "(corrupted: ...): this modality, or the label, was broken on purpose, to check what finds it (parameter corruption)."
"""Note on a contact sheet that shows such a sample."""


def log_data(run: TrackedRun, data: MultimodalData, context: str) -> None:
    """Log the data of a run: the data set as an input of the run, ``data.json``, and the card of a prepared data set.

    Data in memory, which have no card, get a contact sheet, except on nested runs: their parent has it.

    Args:
        run: the run to log to.
        data: the data set, or the part of it that the run uses.
        context: purpose shown in MLflow's table of runs; ``evaluation`` logs no card, because the evaluated run has it.

    Raises:
        UserError: the card is missing and cannot be written.
    """
    run.log_dataset(data, context)
    if data.warnings:
        first = data.warnings[0][:TAG_LENGTH]
        run.set_tags({"mm.data_warnings": f"{len(data.warnings)}: {first}..."})
    if context == "evaluation":
        return
    if data.card is None:
        if not run.is_nested():
            run.log_bytes(save_png(_sheet(data)), f"{names.DATA_FOLDER}/{names.SHEET_FILE}")
        return
    ensure_card(data)
    for file in (names.CARD_FILE, names.SHEET_FILE, names.SAMPLES_FILE):
        run.log_file(data.card / file, names.DATA_FOLDER)


def ensure_card(data: MultimodalData) -> None:
    """Write ``data.card``, of the whole data set, if it is missing; do nothing for data without a store.

    Raises:
        UserError: it cannot be written.
    """
    if data.card is None or (data.card / names.CARD_FILE).is_file():
        return
    try:
        _write_card(data.whole or data, data.card)
    except OSError as error:
        raise UserError(
            f"{data.card}: cannot be written ({error.strerror or error}); the store itself is intact"
        ) from error


def _write_card(data: MultimodalData, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(data.table), folder / names.SAMPLES_FILE)
    save_png(_sheet(data), folder / names.SHEET_FILE)
    samples = card_samples(data)
    text = data_card(
        data.name,
        samples,
        recipe=data.recipe,
        digest=data.digest,
        source=data.source,
        lists=data.lists,
        notes=data.notes,
        warnings=data.warnings,
        excluded=data.excluded,
        skipped=data.skipped,
        suggested="" if data.name in READERS else suggested_line(data, samples),
    )
    partial = folder / f".{names.CARD_FILE}"  # last and atomically: its presence marks the card as complete
    partial.write_text(text, "utf-8")
    os.replace(partial, folder / names.CARD_FILE)


def _sheet(data: MultimodalData) -> Figure:
    samples = sheet_samples(data)
    train = data.splits["train"]
    broken = {sample for sample, corrupted in zip(train.samples, train.corrupted, strict=True) if corrupted}
    note = CORRUPTED if data.truth_known and any(sample.name in broken for sample in samples) else ""
    return contact_sheet(samples, title=f"{data.name}: training samples", note=note)


def suggested_line(data: MultimodalData, samples: Sequence[CardSample]) -> str:
    """Return the command line with settings that fit a data set of a manifest on a machine without a GPU."""
    settings = {"dataset": "PATH/manifest.csv"}
    if tuple(data.specs) != ("audio", "visual"):
        settings["modalities"] = ",".join(data.specs)
    if data.several_classes:
        settings["label_separator"] = "SEPARATOR"
    suggested = suggested_settings(samples, [spec.kind for spec in data.specs.values()])
    settings |= {name: value for name, value in suggested.items() if name in stage_options("main")}
    return f"mlflow run . --env-manager local {as_words(settings)}"


def card_samples(data: MultimodalData) -> list[CardSample]:
    """Return what the card counts, from the table of samples."""
    table = data.table
    classes = _several_classes(data.whole or data) if data.several_classes else {}
    sound_modalities = [name for name in data.specs if f"{name}_channels" in table]
    image_modalities = [name for name in data.specs if f"{name}_frames" in table]
    array_modalities = [name for name in data.specs if f"{name}_features" in table]
    sequences = [name for name in array_modalities if f"{name}_steps" in table]

    def values_of(modalities: list[str], column: str, index: int) -> dict[str, Any]:
        values = {name: table[f"{name}_{column}"][index] for name in modalities}
        return {name: value for name, value in values.items() if value is not None}

    return [
        CardSample(
            split=table["split"][index],
            classes=classes.get(table["sample"][index], (table["label"][index],)),
            seconds=values_of([*sound_modalities, *image_modalities], "seconds", index),
            rate=values_of(sound_modalities, "rate", index),
            size={name: (table[f"{name}_width"][index], table[f"{name}_height"][index]) for name in image_modalities},
            frames=values_of(image_modalities, "frames", index),
            array={
                name: f"{table[f'{name}_features'][index]:,} features of {table[f'{name}_dtype'][index]}"
                for name in array_modalities
            },
            steps=values_of(sequences, "steps", index),
        )
        for index in range(len(table["sample"]))
    ]


def _several_classes(data: MultimodalData) -> dict[str, tuple[str, ...]]:
    """Return the true classes of each sample, by its id."""
    return {
        sample: tuple(data.classes[number] for number in row.nonzero().flatten().tolist())
        for split in data.splits.values()
        for sample, row in zip(split.samples, split.labels, strict=True)
    }


def sheet_samples(data: MultimodalData) -> list[SheetSample]:
    """Return the first training samples of each class, from as many classes as fit."""
    train = data.splits["train"]
    by_class = list(samples_by_class(train.labels).values())
    ranks = range(max(len(indices) for indices in by_class))
    chosen = dict.fromkeys(int(indices[rank]) for rank in ranks for indices in by_class if rank < len(indices))
    return [_sheet_sample(data, train, index) for index in list(chosen)[:SHEET_SAMPLES]]


def _sheet_sample(data: MultimodalData, train: Split, index: int) -> SheetSample:
    pictures, spectrograms = {}, {}
    for name, value in train.stored(index).items():
        if name in train.views:
            pictures[name] = value[: int(train.views[name].counts[index])].permute(0, 3, 1, 2).numpy()
        elif data.specs[name].kind in (IMAGE, VIDEO):
            pictures[name] = _visible(value).numpy()
        elif data.specs[name].kind in (VECTOR, SEQUENCE):
            spectrograms[name] = torch.atleast_2d(normalized_features(value, data.specs[name])).T.numpy()
        else:
            spectrograms[name] = torch.flatten(value, 0, -2).numpy()
    (label,) = label_names(train.labels[index : index + 1], data.classes)
    corrupted = train.corrupted[index] if data.truth_known else ""
    return SheetSample(
        name=train.samples[index],
        label=f"{label} (corrupted: {corrupted})" if corrupted else label,
        pictures=pictures,
        spectrograms=spectrograms,
    )


def normalized_features(value: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Return a vector or sequence as the network sees it, ``spec.shape``: in standard deviations from the mean of each feature."""
    normalized = (value.float() - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    return torch.where((value == 0).all(-1, keepdim=True), 0.0, normalized) if spec.kind == SEQUENCE else normalized


def _visible(frames: torch.Tensor) -> torch.Tensor:
    """Convert ``(..., channels, height, width)`` to ``(frames, 1 or 3, height, width)`` uint8; other channels are averaged."""
    frames = frames.reshape(-1, *frames.shape[-3:])
    if frames.shape[1] not in (1, 3):
        frames = frames.float().mean(dim=1, keepdim=True)
    if frames.dtype == torch.uint8:
        return frames
    low, high = frames.min(), frames.max()
    return (255 * (frames.float() - low) / (high - low).clamp_min(1e-12)).to(torch.uint8)
