"""From a manifest, or a data set's raw download, by way of the store, to splits that train."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mm_balance.config import InputConfig
from mm_balance.data.augment import VisualTransform
from mm_balance.data.dataset import FrameView, MultimodalData, Split
from mm_balance.data.manifest import (
    GROUP,
    SPLITS,
    Columns,
    Row,
    RowErrors,
    check_enough,
    check_groups,
    drop_unknown_labels,
    find_files,
    read_rows,
    split_off_validation,
)
from mm_balance.data.readers import check_protocol, read_raw, write_manifest
from mm_balance.data.recipe import PICTURE, SOUND, stored_recipe
from mm_balance.data.store import FACTS, Store, build_store, open_store
from mm_balance.errors import UserError
from mm_balance.types import InputSpec

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of pictures in all official codes of the field."""
AUDIOSET: Statistics = ((-4.503877,), (2 * 5.141276,))
"""Of Kaldi's filter banks on AudioSet: (x + 4.503877) / (2 * 5.141276), GeWu-Lab/OGM-GE_CVPR2022@343dc1d,
data/KineticSound/process_audio.py."""
UNCHANGED: Statistics = ((0.0,), (1.0,))
BUILT_IN = Columns({"audio": SOUND, "visual": PICTURE}, {"audio": False, "visual": True})


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode what is not decoded yet.

    Attributes:
        data_dir: where stores lie.
        workers: decoding processes; None = as many as make sense.
        progress: show a bar.
        stop: asked between chunks of clips.
    """

    data_dir: Path
    workers: int | None = None
    progress: bool = True
    stop: Callable[[], bool] = lambda: False


def load_manifest(
    path: Path,
    *,
    modalities: Sequence[str],
    seed: int,
    on_error: str,
    input_config: InputConfig,
    work: DecodeSettings,
) -> MultimodalData:
    """The data set that a manifest describes: read, checked, decoded into a store (once), and opened.

    A modality is sound (WAV, FLAC, OGG, MP3, the sound of a video) or pictures (PNG, JPEG, a folder of frames, a video).
    Without rows of split ``val``, a stratified tenth of train becomes it; groups stay together.

    Args:
        path: the manifest.
        modalities: the columns to read; the first one leads the gap.
        seed: of the choice of validation samples, where there are none.
        on_error: ``fail`` stops at bad rows (what was decoded stays in the store); ``skip`` drops them and keeps their
            reasons in ``skipped``.
        input_config: how files become what the network sees.
        work: how to decode.

    Raises:
        UserError: the manifest cannot be read; a bad row under ``fail``; a group in two splits; one class or an empty
            split (after skipping); no room on the disk.
    """
    rejected = RowErrors()
    rows = drop_unknown_labels(read_rows(path, modalities, rejected), rejected)
    rows, columns, clips = find_files(path.parent, rows, modalities, rejected)
    rejected.stop_if_any(path, on_error)
    check_groups(path, rows)
    if not any(row.split == "val" for row in rows):
        split_off_validation(path, rows, seed)
    check_enough(path, rows)
    recipe = stored_recipe(input_config, moving=any(columns.moving.values()))
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    folder = work.data_dir / "manifests" / f"{_title(path)}-{place}" / recipe.key(columns.kinds)
    store, failures = build_store(
        folder, [clips[row.sample] for row in rows], recipe, columns.kinds,
        workers=work.workers, progress=work.progress, stop=work.stop,
    )  # fmt: skip
    by_sample = {row.sample: row for row in rows}
    for failure in failures:
        row = by_sample[failure.sample]
        rejected.add(row, failure.reason, row.files[failure.modality])
    lines = store.places("identity")
    kept = [row for row in rows if clips[row.sample].identity in lines]
    # Again: dropping undecodable files can empty a class or a split.
    kept = drop_unknown_labels(kept, rejected)
    rejected.stop_if_any(path, on_error)
    check_enough(path, kept)
    return _assemble(
        _title(path),
        kept,
        [lines[clips[row.sample].identity] for row in kept],
        store,
        columns,
        input_config,
        source=f"Manifest {path.name} in the folder {path.parent.resolve().name}.",
        skipped=rejected.lines(),
    )


def prepare_raw(
    name: str, source: Path, *, protocol: str, on_error: str, input_config: InputConfig, work: DecodeSettings
) -> None:
    """A raw download as manifest and store under ``data_dir``; does nothing where that is done.

    Raises:
        UserError: the folder is not the download; clips are missing or cannot be decoded under ``on_error=fail`` (the
            others stay decoded); no room on the disk.
    """
    raw = read_raw(name, source, protocol=protocol)
    if not raw.rows:
        raise UserError(f"{source}: none of the {len(raw.missing):,} listed clips of {name} is there")
    manifest = _manifest(name, protocol, work)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(raw, manifest)
    rejected = RowErrors()
    for line in raw.missing:
        rejected.say(line)
    rows = read_rows(manifest, tuple(BUILT_IN.kinds), rejected)
    rows, _, clips = find_files(source, rows, tuple(BUILT_IN.kinds), rejected)
    recipe = stored_recipe(input_config, moving=True)
    folder = manifest.parent / recipe.key(BUILT_IN.kinds)
    _, failures = build_store(
        folder, list(clips.values()), recipe, BUILT_IN.kinds,
        workers=work.workers, progress=work.progress, stop=work.stop,
    )  # fmt: skip
    by_sample = {row.sample: row for row in rows}
    for failure in failures:
        row = by_sample[failure.sample]
        rejected.add(row, failure.reason, row.files[failure.modality])
    described = {
        "source": raw.source_text, "lists": raw.lists, "notes": raw.notes, "excluded": raw.excluded,
        "skipped": rejected.lines(),
    }  # fmt: skip
    # Before stopping: on_error=skip needs no second look at the clips, and nothing decoded is lost.
    _described(manifest, folder).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", "utf-8")
    rejected.stop_if_any(manifest, on_error)


def load_prepared(
    name: str,
    *,
    protocol: str,
    modalities: Sequence[str],
    seed: int,
    on_error: str,
    input_config: InputConfig,
    work: DecodeSettings,
) -> MultimodalData:
    """A data set that ``prepare_raw`` has prepared. The raw download need not be there any more.

    Raises:
        UserError: not prepared (with the line that prepares it), prepared with clips left out under ``on_error=fail``, or
            modalities that it does not have.
    """
    check_protocol(name, protocol)
    if set(modalities) != set(BUILT_IN.kinds):
        raise UserError(f"{name} has the modalities audio,visual, not {','.join(modalities)}")
    recipe = stored_recipe(input_config, moving=True)
    manifest = _manifest(name, protocol, work)
    folder = manifest.parent / recipe.key(BUILT_IN.kinds)
    if not _described(manifest, folder).is_file():
        raise UserError(
            f"dataset={name} with protocol={protocol} is not prepared by this recipe ({recipe.text(BUILT_IN.kinds)}) in "
            f"{manifest.parent}; do it with: mlflow run . --env-manager local -e prepare -P dataset={name} -P "
            f"protocol={protocol} -P source=FOLDER (and the same data_dir, recipe and size as here)"
        )
    described = json.loads(_described(manifest, folder).read_text("utf-8"))
    if described["skipped"] and on_error == "fail":
        raise UserError(
            f"{len(described['skipped'])} clip(s) of {name} could not be prepared: {'; '.join(described['skipped'][:3])}; put "
            "them right and prepare again, or train without them by on_error=skip"
        )
    rejected = RowErrors()
    rows = read_rows(manifest, modalities, rejected)
    store = open_store(folder)
    lines = store.places("sample")
    rows = [row for row in rows if row.sample in lines]
    check_groups(manifest, rows)
    if not any(row.split == "val" for row in rows):
        split_off_validation(manifest, rows, seed)
    rows = drop_unknown_labels(rows, rejected)
    check_enough(manifest, rows)
    columns = Columns({name: BUILT_IN.kinds[name] for name in modalities}, BUILT_IN.moving)
    return _assemble(
        name,
        rows,
        [lines[row.sample] for row in rows],
        store,
        columns,
        input_config,
        source=described["source"],
        skipped=[*described["skipped"], *rejected.lines()],
        excluded=described["excluded"],
        lists=described["lists"],
        notes=[f"protocol {protocol}", *described["notes"]],
    )


def _manifest(name: str, protocol: str, work: DecodeSettings) -> Path:
    return work.data_dir / name / f"manifest-{protocol}.csv"


def _described(manifest: Path, folder: Path) -> Path:
    return folder / f"{manifest.stem}.json"


def _title(path: Path) -> str:
    return path.parent.resolve().name if path.stem == "manifest" else path.stem


def _assemble(
    name: str,
    rows: list[Row],
    lines: list[int],
    store: Store,
    columns: Columns,
    input_config: InputConfig,
    *,
    source: str,
    skipped: list[str],
    excluded: Sequence[str] = (),
    lists: dict[str, str] | None = None,
    notes: Sequence[str] = (),
) -> MultimodalData:
    """Splits over the store's arrays, in the order of the sample ids: the order of the manifest's lines decides nothing.

    ``lines`` are the lines of the store's table that belong to ``rows``.
    """
    order = sorted(range(len(rows)), key=lambda place: (SPLITS.index(rows[place].split), rows[place].sample))
    rows, lines = [rows[place] for place in order], [lines[place] for place in order]
    taken = pa.array(lines)
    facts = {
        f"{modality}_{fact}": store.columns[f"{modality}_{fact}"].take(taken).to_pylist()
        for modality, kind in columns.kinds.items()
        for fact in FACTS[kind]
    }
    places = torch.from_numpy(store.columns["row"].take(taken).to_numpy().astype(np.int64))
    with warnings.catch_warnings():
        # The arrays are read-only, and torch warns of writing to them; they are only ever indexed.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        inputs = {modality: torch.from_numpy(store.arrays[modality]) for modality in columns.kinds}
    views = {
        modality: _frame_view(modality, facts, columns.moving[modality], input_config)
        for modality, kind in columns.kinds.items()
        if kind == PICTURE
    }
    classes = tuple(sorted({row.label for row in rows}))
    numbers = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([numbers[row.label] for row in rows])
    whole = Split("all", inputs, labels, [row.sample for row in rows], [""] * len(rows), rows=places, views=views)
    splits = {}
    for split in SPLITS:
        members = torch.tensor([place for place, row in enumerate(rows) if row.split == split])
        splits[split] = whole.subset(members)
        splits[split].name = split
    train = [place for place, row in enumerate(rows) if row.split == "train"]
    specs = {
        modality: _sound_spec(inputs[modality], modality, facts, train, input_config)
        if kind == SOUND
        else _picture_spec(modality, facts, train, input_config, views[modality])
        for modality, kind in columns.kinds.items()
    }
    table: dict[str, list[Any]] = {
        "sample": whole.samples,
        "split": [row.split for row in rows],
        "label": [row.label for row in rows],
        GROUP: [row.group for row in rows],
        **{f"{modality}_file": [row.files[modality] for row in rows] for modality in columns.kinds},
        **{column: values for column, values in facts.items() if not column.endswith(("_mean", "_square"))},
        **{column: [row.extra.get(column, "") for row in rows] for column in rows[0].extra},
    }
    return MultimodalData(
        name=name,
        classes=classes,
        specs=specs,
        splits=splits,
        digest=_digest(table, tuple(columns.kinds), store.recipe),
        recipe=store.recipe,
        truth_known=False,
        counts={
            **{split: len(value) for split, value in splits.items()},
            "skipped": len(skipped), "excluded": len(excluded),
        },
        source=source,
        skipped=skipped,
        excluded=list(excluded),
        lists=dict(lists or {}),
        notes=list(notes),
        table=table,
        folder=store.folder,
    )  # fmt: skip


def _frame_view(modality: str, facts: dict[str, list[Any]], moving: bool, input_config: InputConfig) -> FrameView:
    counts = torch.tensor(facts[f"{modality}_frames"])
    width, height = (torch.tensor(facts[f"{modality}_{side}"], dtype=torch.float32) for side in ("width", "height"))
    transform = VisualTransform(
        frames=input_config.frames if moving else 1,
        how=input_config.frame_choice,
        augment=input_config.augment,
        size=input_config.image_size,
    )
    return FrameView(transform, counts, width / height)


def _sound_spec(
    stored: torch.Tensor, modality: str, facts: dict[str, list[Any]], train: list[int], input_config: InputConfig
) -> InputSpec:
    mean, std = UNCHANGED
    if input_config.audio_normalization == "audioset":
        mean, std = AUDIOSET
    elif input_config.audio_normalization == "train":
        mean, std = _statistics(modality, facts, train, np.ones(len(train)))
    return InputSpec(SOUND, tuple(stored.shape[1:]), mean, std)


def _picture_spec(
    modality: str, facts: dict[str, list[Any]], train: list[int], input_config: InputConfig, view: FrameView
) -> InputSpec:
    size = input_config.image_size
    shape = (3, size, size) if view.transform.frames == 1 else (view.transform.frames, 3, size, size)
    if input_config.visual_normalization == "imagenet":
        mean, std = IMAGENET
    else:
        mean, std = _statistics(modality, facts, train, view.counts.numpy()[train])
    return InputSpec(PICTURE, shape, mean, std)


def _statistics(
    modality: str, facts: dict[str, list[Any]], train: list[int], weights: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (at least 1e-6) per channel over the training split, from those of its clips."""
    mean = np.average([facts[f"{modality}_mean"][place] for place in train], axis=0, weights=weights)
    square = np.average([facts[f"{modality}_square"][place] for place in train], axis=0, weights=weights)
    std = np.sqrt(np.maximum(square - mean**2, 0.0)).clip(1e-6)
    return tuple(mean.tolist()), tuple(std.tolist())


def _digest(table: dict[str, list[Any]], modalities: Sequence[str], recipe: str) -> str:
    """SHA-256 of what the samples are, whatever the order of the rows and the names of the files."""
    columns = ["sample", "split", "label", *(f"{modality}_sha256" for modality in modalities)]
    lines = sorted(map(list, zip(*(table[column] for column in columns), strict=True)))
    return hashlib.sha256(json.dumps([recipe, list(modalities), lines]).encode()).hexdigest()
