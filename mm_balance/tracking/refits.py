"""What a run keeps of a refit: ``refits/epoch_NNNN/`` and a step of the image ``gmm/density``. Written and read here alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from mm_balance import names
from mm_balance.errors import UserError
from mm_balance.figures import mixture_density, save_png
from mm_balance.functional.mixture import Mixture
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import GapFit


def write_refit(
    run: TrackedRun,
    refit: GapFit,
    samples: Sequence[str],
    corrupted: Sequence[str] | None,
    *,
    branches: bool = False,
) -> None:
    """Log a refit: mixture, picture and table, then the picture once more as a step of the image.

    Args:
        run: where to.
        refit: what to log.
        samples: stable ids of the training samples.
        corrupted: per training sample the modality corrupted on purpose, or None where unknown.
        branches: whether the gaps are of branches that see each other; the picture then says so.
    """
    picture = density_picture(refit, branches=branches)
    folder = names.refit_folder(refit.epoch)
    with TemporaryDirectory() as temporary:
        local = Path(temporary)
        (local / names.MIXTURE_FILE).write_text(refit.mixture.to_json() + "\n", "utf-8")
        (local / names.DENSITY_FILE).write_bytes(picture)
        gap_table(refit, samples, corrupted).to_parquet(local / names.GAPS_FILE, index=False)
        for name in (names.MIXTURE_FILE, names.DENSITY_FILE, names.GAPS_FILE):
            run.log_file(local / name, folder)
    run.log_step_image(picture, names.DENSITY_IMAGE_KEY, refit.epoch)


def density_picture(refit: GapFit, *, branches: bool) -> bytes:
    """Histogram and mixture of the gaps as PNG."""
    leading, *others = [f"{name} branch" if branches else name for name in refit.probabilities]
    figure = mixture_density(
        refit.gaps.numpy(),
        refit.mixture,
        title=f"Modality gap after epoch {refit.epoch}",
        leading=leading,
        other=others[0] if len(others) == 1 else "the best other",
    )
    return save_png(figure)


def gap_table(refit: GapFit, samples: Sequence[str], corrupted: Sequence[str] | None) -> pd.DataFrame:
    """One row per training sample: what the survey measured and what the mixture makes of it.

    Columns: index, sample, label, ``p_<modality>``, p_fused, gap, posterior_imbalanced, and ``corrupted`` (the modality
    corrupted on purpose, empty = clean) where that is known.
    """
    table = pd.DataFrame({"index": np.arange(len(samples)), "sample": list(samples), "label": refit.labels.numpy()})
    for modality, probability in refit.probabilities.items():
        table[f"p_{modality}"] = probability.numpy()
    table["p_fused"] = refit.fused_probability.numpy()
    table["gap"] = refit.gaps.numpy()
    table["posterior_imbalanced"] = refit.posterior_imbalanced.numpy()
    if corrupted is not None:
        table["corrupted"] = list(corrupted)
    return table


@dataclass(frozen=True)
class PublishedRefit:
    """A refit as its run has it: epoch, gaps ``(samples,)`` float64, mixture, and the density plot as PNG."""

    epoch: int
    gaps: np.ndarray
    mixture: Mixture
    density: bytes


def refit_epochs(run: TrackedRun) -> list[int]:
    """Epochs after which the run has logged a refit, in order."""
    return sorted(names.refit_epoch(folder) for folder in run.artifact_names(names.REFITS_FOLDER))


def read_refit(run: TrackedRun, epoch: int) -> PublishedRefit:
    """The refit after ``epoch`` epochs. Raises UserError where the run has none, or lacks one of its files."""
    with TemporaryDirectory() as temporary:
        mixture, density, gaps = _fetch(run, epoch, Path(temporary))
        return PublishedRefit(
            epoch=epoch,
            gaps=pd.read_parquet(gaps, columns=["gap"])["gap"].to_numpy(),
            mixture=Mixture.from_json(mixture.read_text("utf-8")),
            density=density.read_bytes(),
        )


def read_refits(run: TrackedRun) -> list[PublishedRefit]:
    """All refits that the run has logged, in order of epoch. Raises UserError where a file of one is missing."""
    return [read_refit(run, epoch) for epoch in refit_epochs(run)]


def read_gap_table(run: TrackedRun, epoch: int) -> pd.DataFrame:
    """The whole table of ``gap_table``. Raises UserError where the run has none after ``epoch`` epochs."""
    with TemporaryDirectory() as folder:
        return pd.read_parquet(run.fetch(f"{names.refit_folder(epoch)}/{names.GAPS_FILE}", Path(folder)))


def is_complete(run: TrackedRun, epoch: int) -> bool:
    """Whether the run has everything that ``write_refit`` logs, and each file of it can be read to its end.

    A process that was killed may have sent only the first files; a store that does not write a file in one step may keep a part of
    the one that was under way.
    """
    with TemporaryDirectory() as temporary:
        local = Path(temporary)
        try:
            mixture, density, gaps = _fetch(run, epoch, local)
            Mixture.from_json(mixture.read_text("utf-8"))
            pd.read_parquet(gaps)
            _read_picture(density)
        except (UserError, OSError, ValueError):
            return False
        return any(_can_be_shown(run, pair, local) for pair in run.step_images(names.DENSITY_IMAGE_KEY, epoch))


def _fetch(run: TrackedRun, epoch: int, local: Path) -> tuple[Path, Path, Path]:
    """The files of a refit, downloaded: mixture, picture, table. Raises UserError where one is missing."""
    folder = names.refit_folder(epoch)
    mixture, density, gaps = (
        run.fetch(f"{folder}/{name}", local) for name in (names.MIXTURE_FILE, names.DENSITY_FILE, names.GAPS_FILE)
    )
    return mixture, density, gaps


def _can_be_shown(run: TrackedRun, pair: tuple[str, str], local: Path) -> bool:
    """Whether a step of the image is there whole: the picture and its small copy."""
    try:
        for path in pair:
            _read_picture(run.fetch(path, local))
    except (UserError, OSError):
        return False
    return True


def _read_picture(path: Path) -> None:
    """Decode a picture. Raises OSError where it is cut off."""
    with Image.open(path) as image:
        image.load()
