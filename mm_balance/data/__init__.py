"""Data sets: readers, the store of decoded clips, validated splits, and batch loading."""

from __future__ import annotations

from pathlib import Path

from mm_balance.config import InputConfig
from mm_balance.config.datasets import OWN, PLUGINS, find_builder
from mm_balance.data.corruption import Corruption, plant
from mm_balance.data.dataset import BatchLoader, MultimodalData, Split
from mm_balance.data.digits import load_digits
from mm_balance.data.outside import load_outside
from mm_balance.data.prepare import DecodeSettings, load_manifest, load_prepared, prepare_raw
from mm_balance.data.readers import READERS
from mm_balance.errors import UserError

__all__ = [
    "READERS",
    "BatchLoader",
    "Corruption",
    "DecodeSettings",
    "MultimodalData",
    "Split",
    "load_data",
    "load_digits",
    "load_manifest",
    "load_outside",
    "plant",
    "prepare_raw",
]


def load_data(
    dataset: str,
    *,
    seed: int,
    visual_difficulty: float,
    corruption: Corruption,
    protocol: str,
    modalities: tuple[str, ...],
    label_separator: str | None = None,
    on_error: str,
    allow_outside: bool = False,
    input_config: InputConfig,
    work: DecodeSettings,
) -> MultimodalData:
    """Load the data set ``dataset``, validated and ready for training.

    Args:
        dataset: ``digits``, the name of a prepared built-in set, the path of a manifest (.csv), ``package.module:build`` or the name
            of a data set of an installed package.
        seed: data seed: corruption, noise of `digits`, choice of the validation samples of other sets. Separate from a run's
            seed, so that runs to be compared use the same data.
        visual_difficulty: `digits` only, see ``load_digits``.
        corruption: what to corrupt in the training split.
        protocol: which split of a built-in set.
        modalities: columns of a manifest, or those of the data set. The first one is the leading modality of the gap.
        label_separator: what separates the classes of a sample in a manifest; None = each has one.
        on_error: ``fail`` or ``skip`` on bad files, see ``load_manifest``.
        allow_outside: whether the files of a manifest may lie outside its folder, see ``load_manifest``.
        input_config: how files become network inputs.
        work: location of the stores and decoding settings.

    Raises:
        UserError: unknown name, data set not prepared, or bad data.
    """
    if label_separator is not None and not dataset.endswith(".csv"):
        raise UserError(
            f"label_separator={label_separator} is for manifests; {dataset} says itself which classes its samples have"
        )
    if dataset == "digits":
        if modalities != ("audio", "visual"):
            raise UserError(f"digits has the modalities audio,visual, not {','.join(modalities)}")
        return load_digits(visual_difficulty=visual_difficulty, corruption=corruption, seed=seed)
    if dataset.endswith(".csv"):
        data = load_manifest(
            Path(dataset).expanduser(),
            modalities=modalities,
            seed=seed,
            label_separator=label_separator,
            on_error=on_error,
            allow_outside=allow_outside,
            input_config=input_config,
            work=work,
        )
    elif dataset in READERS:
        data = load_prepared(
            dataset,
            protocol=protocol,
            modalities=modalities,
            seed=seed,
            on_error=on_error,
            input_config=input_config,
            work=work,
        )
    elif ":" not in dataset and not PLUGINS.offered(dataset):
        raise UserError(
            f"dataset={dataset} is not known; give digits, {', '.join(READERS)} or the path of a manifest.csv, or your own function "
            f"as {OWN}"
        )
    else:
        data = load_outside(find_builder(dataset), modalities, f"dataset={dataset}")
    return plant(data, corruption, input_config, seed=seed)
