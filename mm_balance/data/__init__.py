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
    data_dir: Path | None,
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

    Args:
        dataset: ``digits``, or the path of a manifest, which ends in .csv.
        data_dir: folder of prepared data; nothing that this version reads lies there.
        seed: of the draw of data: the corruption and noise of `digits`, the choice of validation samples of a manifest.
            Runs that are to be compared share it, so it is not a run's seed.
        visual_difficulty: of `digits`, see ``load_digits``.
        corruption: of `digits`, see ``load_digits``.
        modalities: columns of a manifest; the first one leads the gap.
        on_error: of manifests, ``fail`` or ``skip``, see ``load_manifest``.
        image_size: of manifests, pixels.
        clip_seconds: of manifests, seconds.
        progress: show a progress bar.

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
            f"dataset={dataset}: its reader comes with `prepare` in a later version; a manifest.csv of its clips, as "
            "images and sounds, works now: dataset=PATH/manifest.csv"
        )
    raise UserError(f"dataset={dataset} is not known; give digits, {', '.join(LATER)} or the path of a manifest.csv")
