"""What a run says of its data, and the card of a prepared set: numbers, a contact sheet, the table of samples.

The card is made once, beside the store, when a run logs the set for the first time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mm_balance import names
from mm_balance.data import MultimodalData, Split
from mm_balance.data.card import CardSample, data_card
from mm_balance.errors import UserError
from mm_balance.figures import SheetSample, contact_sheet, save_png
from mm_balance.tracking.runs import TrackedRun

SHEET_SAMPLES = 12


def log_data(run: TrackedRun, data: MultimodalData, context: str) -> None:
    """Log what a run works on: the data set as an input of the run, ``data.json``, and the card of a prepared set.

    Args:
        run: where to.
        data: the data set, or the part of it that the run works on.
        context: what for, as MLflow's table of runs shows it; ``evaluation`` logs no card, for the evaluated run has it.

    Raises:
        UserError: the card is missing and cannot be written.
    """
    run.log_dataset(data, context)
    if data.card is None or context == "evaluation":
        return
    ensure_card(data)
    for file in (names.CARD_FILE, names.SHEET_FILE, names.SAMPLES_FILE):
        run.log_file(data.card / file, names.DATA_FOLDER)


def ensure_card(data: MultimodalData) -> None:
    """Write ``data.card``, of the whole set, where it is missing; nothing for data without a store.

    Raises:
        UserError: it cannot be written.
    """
    if data.card is None or (data.card / names.CARD_FILE).is_file():
        return
    try:
        _write_card(data.whole or data, data.card)
    except OSError as error:
        raise UserError(
            f"{data.card}: cannot be written ({error.strerror or error}); the store itself is whole"
        ) from error


def _write_card(data: MultimodalData, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(data.table), folder / names.SAMPLES_FILE)
    save_png(contact_sheet(sheet_samples(data), title=f"{data.name}: training samples"), folder / names.SHEET_FILE)
    text = data_card(
        data.name,
        card_samples(data),
        recipe=data.recipe,
        digest=data.digest,
        source=data.source,
        lists=data.lists,
        notes=data.notes,
        excluded=data.excluded,
        skipped=data.skipped,
    )
    partial = folder / f".{names.CARD_FILE}"  # last and in one step: it says that the card is whole
    partial.write_text(text, "utf-8")
    os.replace(partial, folder / names.CARD_FILE)


def card_samples(data: MultimodalData) -> list[CardSample]:
    """What the card counts, from the table of samples."""
    table = data.table
    heard = [name for name in data.specs if f"{name}_channels" in table]
    seen = [name for name in data.specs if f"{name}_frames" in table]

    def facts(modalities: list[str], column: str, place: int) -> dict[str, Any]:
        found = {name: table[f"{name}_{column}"][place] for name in modalities}
        return {name: value for name, value in found.items() if value is not None}

    return [
        CardSample(
            split=table["split"][place],
            label=table["label"][place],
            seconds=facts([*heard, *seen], "seconds", place),
            rate=facts(heard, "rate", place),
            size={name: (table[f"{name}_width"][place], table[f"{name}_height"][place]) for name in seen},
            frames=facts(seen, "frames", place),
        )
        for place in range(len(table["sample"]))
    ]


def sheet_samples(data: MultimodalData) -> list[SheetSample]:
    """Training samples of as many classes as there is room for, the first ones of each."""
    train = data.splits["train"]
    by_class = [(train.labels == label).nonzero().flatten() for label in range(len(data.classes))]
    rounds = range(max(len(places) for places in by_class))
    chosen = [int(places[turn]) for turn in rounds for places in by_class if turn < len(places)][:SHEET_SAMPLES]
    return [_sheet_sample(data, train, place) for place in chosen]


def _sheet_sample(data: MultimodalData, train: Split, place: int) -> SheetSample:
    row = place if train.rows is None else int(train.rows[place])
    pictures, spectrograms = {}, {}
    for name, value in train.inputs.items():
        if name in train.views:
            pictures[name] = value[row][: int(train.views[name].counts[place])].permute(0, 3, 1, 2).numpy()
        else:
            spectrograms[name] = torch.flatten(value[row], 0, -2).numpy()
    return SheetSample(
        name=train.samples[place],
        label=data.classes[int(train.labels[place])],
        pictures=pictures,
        spectrograms=spectrograms,
    )
