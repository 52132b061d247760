"""Data: readers that give decoded, checked splits in memory, and the batches that come of them."""

from __future__ import annotations

from pathlib import Path

from mm_balance.data.dataset import BatchLoader, MultimodalData, Split
from mm_balance.data.digits import load_digits
from mm_balance.data.manifest import load_manifest
from mm_balance.errors import UserError

LATER = ("cremad", "ave", "kinetics_sounds")

__all__ = ["BatchLoader", "MultimodalData", "Split", "load_data", "load_digits", "load_manifest"]


def load_data(
    dataset: str,
    *,
    data_dir: Path,
    seed: int,
    visual_difficulty: float,
    corruption: float,
    modalities: tuple[str, ...],
    on_error: str,
    image_size: int,
    clip_seconds: float,
    progress: bool,
) -> MultimodalData:
    """The data set called ``dataset``, decoded and checked.

    Raises:
        UserError: an unknown name, a data set whose reader does not exist yet, or bad data.
    """
    if dataset == "digits":
        if modalities != ("audio", "visual"):
            raise UserError(f"digits has the modalities audio,visual, not {','.join(modalities)}")
        return load_digits(visual_difficulty=visual_difficulty, corruption=corruption, seed=seed)
    if dataset.endswith(".csv"):
        return load_manifest(
            Path(dataset).expanduser(),
            modalities=modalities,
            seed=seed,
            on_error=on_error,
            image_size=image_size,
            clip_seconds=clip_seconds,
            progress=progress,
        )
    if dataset in LATER:
        raise UserError(
            f"the reader of {dataset} is not part of this version; a manifest.csv of its clips as images and sounds works: "
            "dataset=PATH/manifest.csv"
        )
    raise UserError(f"dataset={dataset} is not known; give digits, {', '.join(LATER)} or the path of a manifest.csv")
