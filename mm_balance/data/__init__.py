"""Data: readers that give checked splits, in memory or mapped from a store, and the batches that come of them."""

from __future__ import annotations

from pathlib import Path

from mm_balance.config import InputConfig
from mm_balance.data.dataset import BatchLoader, MultimodalData, Split
from mm_balance.data.digits import load_digits
from mm_balance.data.prepare import DecodeSettings, load_manifest, load_prepared, prepare_raw
from mm_balance.data.readers import READERS
from mm_balance.errors import UserError

__all__ = [
    "READERS",
    "BatchLoader",
    "DecodeSettings",
    "MultimodalData",
    "Split",
    "load_data",
    "load_digits",
    "load_manifest",
    "prepare_raw",
]


def load_data(
    dataset: str,
    *,
    seed: int,
    visual_difficulty: float,
    corruption: float,
    protocol: str,
    modalities: tuple[str, ...],
    on_error: str,
    input_config: InputConfig,
    work: DecodeSettings,
) -> MultimodalData:
    """The data set called ``dataset``, checked and ready to train on.

    Args:
        dataset: ``digits``, a built-in set that is prepared, or the path of a manifest, which ends in .csv.
        seed: of the draw of data: the corruption and noise of `digits`, the choice of validation samples of the others.
            Runs that are to be compared share it, so it is not a run's seed.
        visual_difficulty: of `digits`, see ``load_digits``.
        corruption: of `digits`, see ``load_digits``.
        protocol: of built-in sets, which split.
        modalities: columns of a manifest; the first one leads the gap.
        on_error: of files, ``fail`` or ``skip``, see ``load_manifest``.
        input_config: how files become what the network sees.
        work: where stores lie and how to decode.

    Raises:
        UserError: an unknown name, a data set that is not prepared, or bad data.
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
            input_config=input_config,
            work=work,
        )
    if dataset in READERS:
        return load_prepared(
            dataset,
            protocol=protocol,
            modalities=modalities,
            seed=seed,
            on_error=on_error,
            input_config=input_config,
            work=work,
        )
    raise UserError(f"dataset={dataset} is not known; give digits, {', '.join(READERS)} or the path of a manifest.csv")
