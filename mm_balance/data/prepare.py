"""Build splits from a manifest or a raw download: check, decode into the store, assemble."""

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
from mm_balance.data.dataset import FrameView, MultimodalData, Split, array_spec
from mm_balance.data.grid_words import cut_words, is_words
from mm_balance.data.manifest import (
    GROUP,
    SPLITS,
    Columns,
    Row,
    RowErrors,
    check_enough,
    check_groups,
    check_labels,
    drop_unknown_labels,
    find_files,
    label_tensor,
    read_rows,
    refuse_fractions,
    split_off_validation,
)
from mm_balance.data.readers import check_protocol, grid, read_raw, write_manifest
from mm_balance.data.recipe import stored_recipe
from mm_balance.data.store import FACTS, Store, build_store, open_store
from mm_balance.data.suspicions import contradicting_labels, duplicates_across_splits
from mm_balance.errors import UserError
from mm_balance.functional.labels import has_several_classes
from mm_balance.input_kinds import IMAGE, SOUND
from mm_balance.types import InputSpec

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of images in all official implementations."""
AUDIOSET: Statistics = ((-4.503877,), (2 * 5.141276,))
"""Mean and standard deviation of Kaldi filter banks on AudioSet: (x + 4.503877) / (2 * 5.141276), GeWu-Lab/OGM-GE_CVPR2022@343dc1d,
data/KineticSound/process_audio.py."""
UNCHANGED: Statistics = ((0.0,), (1.0,))
BUILT_IN = Columns({"audio": SOUND, "visual": IMAGE}, {"audio": False, "visual": True})


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode clips that are not in the store yet.

    Attributes:
        data_dir: folder of the stores.
        workers: decoding processes; None = chosen by the number of cores and clips.
        progress: show a progress bar.
        stop: polled between chunks of clips.
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
    label_separator: str | None = None,
    on_error: str,
    allow_outside: bool = False,
    input_config: InputConfig,
    work: DecodeSettings,
) -> MultimodalData:
    """Load the data set that a manifest describes: read it, check it, decode it into a store (once), and open that.

    A modality is sound (WAV, FLAC, OGG, MP3, the sound of a video), images (PNG, JPEG, a folder of frames, a video), or vectors or
    sequences of vectors (NPY).
    Without rows of split ``val``, a stratified tenth of train becomes the validation split; groups stay together.

    Args:
        path: the manifest.
        modalities: columns to read. The first one is the leading modality of the gap.
        seed: seed for choosing validation samples if there are none.
        label_separator: what separates the classes of a sample in the column ``label``; None = each has one.
        on_error: ``fail`` stops at bad rows (decoded clips stay in the store); ``skip`` drops them and records the
            reasons in ``skipped``.
        allow_outside: whether paths may be absolute, and paths and symbolic links may leave the manifest's folder.
        input_config: how files become network inputs.
        work: decoding settings.

    Raises:
        UserError: the manifest cannot be read; a bad row under ``fail``; a group in two splits; a single class or an
            empty split (after skipping); not enough disk space.
    """
    rejected = RowErrors()
    listed = read_rows(path, modalities, rejected, label_separator=label_separator)
    refuse_fractions(path, listed)
    rows = drop_unknown_labels(listed, rejected)
    rows, columns, clips = find_files(
        path.parent,
        rows,
        modalities,
        rejected,
        allow_outside=allow_outside,
        sequence_steps=input_config.sequence_steps,
    )
    rejected.raise_if_any(path, on_error)
    check_groups(path, rows)
    warned = check_labels(path, rows)
    if not any(row.split == "val" for row in rows):
        split_off_validation(path, rows, seed)
    check_enough(path, rows)
    recipe = stored_recipe(input_config, has_video=any(columns.is_video.values()), shapes=columns.shapes)
    path_digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    folder = work.data_dir / "manifests" / f"{_title(path)}-{path_digest}" / recipe.key(columns.kinds)
    store, failures = build_store(
        folder, [clips[row.sample] for row in rows], recipe, columns.kinds,
        workers=work.workers, progress=work.progress, stop=work.stop,
    )  # fmt: skip
    by_sample = {row.sample: row for row in rows}
    for failure in failures:
        row = by_sample[failure.sample]
        rejected.add(row, failure.reason, row.files[failure.modality])
    table_lines = store.line_index("identity")
    kept = [row for row in rows if clips[row.sample].identity in table_lines]
    # Check again: dropping undecodable files can empty a class or a split.
    kept = drop_unknown_labels(kept, rejected)
    rejected.raise_if_any(path, on_error)
    check_enough(path, kept)
    return _assemble(
        _title(path),
        kept,
        [table_lines[clips[row.sample].identity] for row in kept],
        store,
        columns,
        input_config,
        source=f"Manifest {path.name} in the folder {path.parent.resolve().name}.",
        skipped=rejected.lines(),
        warned=warned,
    )


def prepare_raw(
    name: str,
    source: Path,
    *,
    protocol: str,
    on_error: str,
    allow_outside: bool = False,
    input_config: InputConfig,
    work: DecodeSettings,
) -> None:
    """Convert a raw download to a manifest and a store under ``data_dir``; a no-op if already done.

    ``allow_outside``: symbolic links in it may leave it.

    Raises:
        UserError: the folder is not the download; clips are missing or cannot be decoded under ``on_error=fail`` (the
            others stay decoded); not enough disk space.
    """
    if name == grid.NAME and not is_words(source):
        # Its samples are parts of the download's files. They become files of their own first, beside the store.
        words = work.data_dir / name / "words"
        cut_words(source, words, workers=work.workers, progress=work.progress, stop=work.stop)
        source = words
    raw = read_raw(name, source, protocol=protocol)
    if not raw.rows:
        raise UserError(f"{source}: none of the {len(raw.missing):,} listed clips of {name} is in it")
    manifest = _manifest(name, protocol, work)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(raw, manifest)
    rejected = RowErrors()
    for line in raw.missing:
        rejected.add_message(line)
    rows = read_rows(manifest, tuple(BUILT_IN.kinds), rejected)
    rows, _, clips = find_files(source, rows, tuple(BUILT_IN.kinds), rejected, allow_outside=allow_outside)
    recipe = stored_recipe(input_config, has_video=True)
    folder = manifest.parent / recipe.key(BUILT_IN.kinds)
    _, failures = build_store(
        folder, list(clips.values()), recipe, BUILT_IN.kinds,
        workers=work.workers, progress=work.progress, stop=work.stop,
    )  # fmt: skip
    by_sample = {row.sample: row for row in rows}
    for failure in failures:
        row = by_sample[failure.sample]
        rejected.add(row, failure.reason, row.files[failure.modality])
    metadata = {
        "source": raw.source_text, "lists": raw.lists, "notes": raw.notes, "excluded": raw.excluded,
        "skipped": rejected.lines(),
    }  # fmt: skip
    # Before raising, so that a later on_error=skip need not check the clips again.
    _metadata_file(manifest, folder).write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", "utf-8")
    rejected.raise_if_any(manifest, on_error)


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
    """Load a data set prepared by ``prepare_raw``. The raw download is no longer needed.

    Raises:
        UserError: not prepared (the message has the command that prepares it), prepared with clips left out under
            ``on_error=fail``, or modalities that it does not have.
    """
    check_protocol(name, protocol)
    if set(modalities) != set(BUILT_IN.kinds):
        raise UserError(f"{name} has the modalities audio,visual, not {','.join(modalities)}")
    recipe = stored_recipe(input_config, has_video=True)
    manifest = _manifest(name, protocol, work)
    folder = manifest.parent / recipe.key(BUILT_IN.kinds)
    if not _metadata_file(manifest, folder).is_file():
        raise UserError(
            f"dataset={name} with protocol={protocol} is not prepared with this recipe ({recipe.text(BUILT_IN.kinds)}) in "
            f"{manifest.parent}; prepare it with: mlflow run . --env-manager local -e prepare -P dataset={name} -P "
            f"protocol={protocol} -P source=FOLDER (and the same data_dir, recipe and size as here)"
        )
    metadata = json.loads(_metadata_file(manifest, folder).read_text("utf-8"))
    if metadata["skipped"] and on_error == "fail":
        raise UserError(
            f"{len(metadata['skipped'])} clip(s) of {name} could not be prepared: {'; '.join(metadata['skipped'][:3])}; fix "
            "them and prepare again, or train without them with on_error=skip"
        )
    rejected = RowErrors()
    rows = read_rows(manifest, modalities, rejected)
    store = open_store(folder)
    table_lines = store.line_index("sample")
    rows = [row for row in rows if row.sample in table_lines]
    check_groups(manifest, rows)
    if not any(row.split == "val" for row in rows):
        split_off_validation(manifest, rows, seed)
    rows = drop_unknown_labels(rows, rejected)
    check_enough(manifest, rows)
    columns = Columns({name: BUILT_IN.kinds[name] for name in modalities}, BUILT_IN.is_video)
    return _assemble(
        name,
        rows,
        [table_lines[row.sample] for row in rows],
        store,
        columns,
        input_config,
        source=metadata["source"],
        skipped=[*metadata["skipped"], *rejected.lines()],
        excluded=metadata["excluded"],
        lists=metadata["lists"],
        notes=[f"protocol {protocol}", *metadata["notes"]],
    )


def _manifest(name: str, protocol: str, work: DecodeSettings) -> Path:
    return work.data_dir / name / f"manifest-{protocol}.csv"


def _metadata_file(manifest: Path, folder: Path) -> Path:
    return folder / f"{manifest.stem}.json"


def _title(path: Path) -> str:
    return path.parent.resolve().name if path.stem == "manifest" else path.stem


def _assemble(
    name: str,
    rows: list[Row],
    table_lines: list[int],
    store: Store,
    columns: Columns,
    input_config: InputConfig,
    *,
    source: str,
    skipped: list[str],
    excluded: Sequence[str] = (),
    lists: dict[str, str] | None = None,
    notes: Sequence[str] = (),
    warned: Sequence[str] = (),
) -> MultimodalData:
    """Assemble splits over the store's arrays, ordered by sample id, whatever the order of the manifest.

    ``table_lines`` are the lines of the store's table that belong to ``rows``.
    """
    order = sorted(range(len(rows)), key=lambda number: (SPLITS.index(rows[number].split), rows[number].sample))
    rows, table_lines = [rows[number] for number in order], [table_lines[number] for number in order]
    # Metadata of the clips, and their rows in the memory-mapped arrays.
    taken = pa.array(table_lines)
    facts = {
        f"{modality}_{fact}": store.columns[f"{modality}_{fact}"].take(taken).to_pylist()
        for modality, kind in columns.kinds.items()
        for fact in FACTS[kind]
    }
    array_rows = torch.from_numpy(store.columns["row"].take(taken).to_numpy().astype(np.int64))
    with warnings.catch_warnings():
        # torch warns that the arrays are read-only; they are only ever indexed.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        inputs = {modality: torch.from_numpy(store.arrays[modality]) for modality in columns.kinds}
    views = {
        modality: _frame_view(modality, facts, columns.is_video[modality], input_config)
        for modality, kind in columns.kinds.items()
        if kind == IMAGE
    }
    # One split over all rows; train, val and test are subsets of it.
    classes = tuple(sorted({name for row in rows for name in row.classes}))
    labels = label_tensor(rows, classes)
    whole = Split(
        "all",
        inputs,
        labels,
        [row.sample for row in rows],
        [""] * len(rows),
        rows=dict.fromkeys(inputs, array_rows),
        views=views,
    )
    splits = {}
    for split in SPLITS:
        members = torch.tensor([number for number, row in enumerate(rows) if row.split == split])
        splits[split] = whole.subset(members)
        splits[split].name = split
    # Normalization statistics come from the training split only.
    train = [number for number, row in enumerate(rows) if row.split == "train"]
    specs = {
        modality: _spec(kind, whole, modality, facts, train, input_config) for modality, kind in columns.kinds.items()
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
    if has_several_classes(labels):
        table["true_classes"] = [sorted(row.classes) for row in rows]
    contents = {modality: facts[f"{modality}_sha256"] for modality in columns.kinds}
    duplicates, count = duplicates_across_splits(table["sample"], table["split"], contents, SPLITS)
    contradictions = contradicting_labels(table["sample"], table["label"], contents)
    return MultimodalData(
        name=name,
        classes=classes,
        specs=specs,
        splits=splits,
        digest=_digest(table, tuple(columns.kinds), store.recipe, has_several_classes(labels)),
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
        duplicates=count,
        warnings=[*warned, *duplicates, *contradictions],
        table=table,
        folder=store.folder,
    )  # fmt: skip


def _frame_view(modality: str, facts: dict[str, list[Any]], is_video: bool, input_config: InputConfig) -> FrameView:
    counts = torch.tensor(facts[f"{modality}_frames"])
    width, height = (torch.tensor(facts[f"{modality}_{side}"], dtype=torch.float32) for side in ("width", "height"))
    transform = VisualTransform(
        frames=input_config.frames if is_video else 1,
        how=input_config.frame_choice,
        augment=input_config.augment,
        size=input_config.image_size,
        stacked=input_config.frames_as == "channels",
    )
    return FrameView(transform, counts, width / height)


def _spec(
    kind: str, whole: Split, modality: str, facts: dict[str, list[Any]], train: list[int], input_config: InputConfig
) -> InputSpec:
    if kind == SOUND:
        return _sound_spec(whole.inputs[modality], modality, facts, train, input_config)
    if kind == IMAGE:
        return _image_spec(modality, facts, train, input_config, whole.views[modality])
    return array_spec(kind, whole, modality, torch.tensor(train))


def _sound_spec(
    stored: torch.Tensor, modality: str, facts: dict[str, list[Any]], train: list[int], input_config: InputConfig
) -> InputSpec:
    mean, std = UNCHANGED
    if input_config.audio_normalization == "audioset":
        mean, std = AUDIOSET
    elif input_config.audio_normalization == "train":
        mean, std = _statistics(modality, facts, train, np.ones(len(train)))
    return InputSpec(SOUND, tuple(stored.shape[1:]), mean, std)


def _image_spec(
    modality: str, facts: dict[str, list[Any]], train: list[int], input_config: InputConfig, view: FrameView
) -> InputSpec:
    size, frames = input_config.image_size, view.transform.frames
    if input_config.visual_normalization == "imagenet":
        mean, std = IMAGENET
    else:
        mean, std = _statistics(modality, facts, train, view.counts.numpy()[train])
    if view.transform.stacked:
        return InputSpec(IMAGE, (3 * frames, size, size), mean * frames, std * frames)
    shape = (3, size, size) if frames == 1 else (frames, 3, size, size)
    return InputSpec(IMAGE, shape, mean, std)


def _statistics(
    modality: str, facts: dict[str, list[Any]], train: list[int], weights: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation (at least 1e-6) per channel over the training split, from per-clip moments."""
    mean = np.average([facts[f"{modality}_mean"][number] for number in train], axis=0, weights=weights)
    square = np.average([facts[f"{modality}_square"][number] for number in train], axis=0, weights=weights)
    std = np.sqrt(np.maximum(square - mean**2, 0.0)).clip(1e-6)
    return tuple(mean.tolist()), tuple(std.tolist())


def _digest(table: dict[str, list[Any]], modalities: Sequence[str], recipe: str, several_classes: bool = False) -> str:
    """Return the SHA-256 of the samples' contents; it does not depend on the order of rows or on file names."""
    columns = ["sample", "split", "label", *(f"{modality}_sha256" for modality in modalities)]
    samples = sorted(map(list, zip(*(table[column] for column in columns), strict=True)))
    form = ["several classes"] if several_classes else []
    return hashlib.sha256(json.dumps([recipe, list(modalities), samples, *form]).encode()).hexdigest()
