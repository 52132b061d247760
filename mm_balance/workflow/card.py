"""Logging of a run's data, and the card of a data set: statistics, a contact sheet, the table of samples.

The card is made when a run logs the data: of a prepared set once, next to its store; of other data for each run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mm_balance import names
from mm_balance.config import stage_options
from mm_balance.config.datasets import builder_settings, is_at_hand, is_own
from mm_balance.data import READERS, MultimodalData, Split
from mm_balance.data.card import CardSample, card_samples, data_card
from mm_balance.data.suggestions import suggested_settings
from mm_balance.errors import UserError
from mm_balance.figures import Figure, SheetSample, contact_sheet, save_png
from mm_balance.functional.labels import label_names, samples_by_class
from mm_balance.input_kinds import IMAGE, INPUT_KINDS, SEQUENCE, VECTOR, VIDEO
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import InputSpec
from mm_balance.workflow.next_steps import command_line

CARD_FILES = (names.CARD_FILE, names.SHEET_FILE, names.SAMPLES_FILE)
SOME_MANIFEST = "PATH/manifest.csv"
"""In place of the manifest of a prepared set, whose card is kept for whoever uses the store."""
SHEET_SAMPLES = 12
TAG_LENGTH = 60
"""Characters of a tag: the page of a run hides the name of a tag that is much longer."""
CORRUPTED = "(corrupted: ...): this modality, or the label, was broken on purpose, to check what finds it (parameter corruption)."
"""Note on a contact sheet that shows such a sample."""


def log_data(run: TrackedRun, data: MultimodalData, context: str, dataset: str | None = None) -> None:
    """Log the data of a run: the data set as an input of the run, ``data.json``, and the card.

    Nested runs have no card of data without a store: their parent has it.

    Args:
        run: the run to log to.
        data: the data set, or the part of it that the run uses.
        context: purpose shown in MLflow's table of runs; ``evaluation`` logs no card, because the evaluated run has it.
        dataset: value of the parameter ``dataset``, by which the card of data without a store suggests settings; None = it does not.

    Raises:
        UserError: the card is missing and cannot be written.
    """
    run.log_dataset(data, context)
    if data.warnings:
        first = data.warnings[0][:TAG_LENGTH]
        run.set_tags({"mm.data_warnings": f"{len(data.warnings)}: {first}..."})
    if context == "evaluation" or (data.card is None and run.is_nested()):
        return
    with TemporaryDirectory() as temporary:
        folder = data.card or Path(temporary)
        if not (folder / names.CARD_FILE).is_file():
            _write_card(data.whole or data, folder, dataset)
        for file in CARD_FILES:
            run.log_file(folder / file, names.DATA_FOLDER)


def _write_card(data: MultimodalData, folder: Path, dataset: str | None) -> None:
    """Write the files of the card, of the whole data set. Raises UserError if they cannot be written."""
    intact = "" if data.card is None else "; the store itself is intact"
    try:
        folder.mkdir(exist_ok=True)
        described = data if data.table else data.with_table()
        pq.write_table(pa.table(described.table), folder / names.SAMPLES_FILE)
        save_png(_sheet(described), folder / names.SHEET_FILE)
        partial = folder / f".{names.CARD_FILE}"  # last and atomically: its presence marks the card as complete
        partial.write_text(_card_text(described, dataset), "utf-8")
        os.replace(partial, folder / names.CARD_FILE)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}){intact}") from error


def _card_text(data: MultimodalData, dataset: str | None) -> str:
    samples = card_samples(data)
    return data_card(
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
        inputs={name: _input_text(spec) for name, spec in data.specs.items()},
        suggested=_suggested(data, samples, dataset),
    )


def _input_text(spec: InputSpec) -> str:
    """Return kind and shape of an input in words, ``image, 3 x 224 x 224 (channels, height, width)``."""
    kind = VIDEO if spec.kind == IMAGE and len(spec.shape) == 4 else spec.kind
    return f"{kind}, {' x '.join(map(str, spec.shape))} {INPUT_KINDS[kind].shape_text()}"


def _suggested(data: MultimodalData, samples: Sequence[CardSample], dataset: str | None) -> str:
    """Return the suggested command; empty = the data set has settings of its own."""
    if data.card is not None:
        return "" if data.name in READERS else suggested_line(data, samples, SOME_MANIFEST)
    if dataset is None or not is_own(dataset) or builder_settings(dataset):
        return ""
    return suggested_line(data, samples, dataset)


def suggested_line(data: MultimodalData, samples: Sequence[CardSample], dataset: str = SOME_MANIFEST) -> str:
    """Return the line with settings that fit a data set of the user's own on a machine without a GPU.

    Args:
        data: the data set.
        samples: what is known of its samples.
        dataset: value of the parameter ``dataset``.
    """
    settings = {"dataset": dataset}
    if tuple(data.specs) != ("audio", "visual"):
        settings["modalities"] = ",".join(data.specs)
    if data.several_classes and dataset.endswith(".csv"):
        settings["label_separator"] = "SEPARATOR"
    suggested = suggested_settings(samples, [spec.kind for spec in data.specs.values()])
    settings |= {name: value for name, value in suggested.items() if name in stage_options("main")}
    return command_line("main", settings, at_hand=is_at_hand(dataset))


def _sheet(data: MultimodalData) -> Figure:
    samples = sheet_samples(data)
    train = data.splits["train"]
    broken = {sample for sample, corrupted in zip(train.samples, train.corrupted, strict=True) if corrupted}
    note = CORRUPTED if data.truth_known and any(sample.name in broken for sample in samples) else ""
    return contact_sheet(samples, title=f"{data.name}: training samples", note=note)


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
