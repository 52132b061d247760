"""Artifacts of a refit: ``refits/epoch_NNNN/``, and a step of the images ``gmm/density`` and ``balance/density``.

Written and read only here.
"""

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
from mm_balance.explorer.gap_table import gap_table
from mm_balance.figures import mixture_density, save_png
from mm_balance.functional.mixture import Mixture
from mm_balance.tracking.lookup import children
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import GapFit

SOURCES = {"refit": "", "running": ", running means", "cross_fitted": ", cross-fitted"}
"""Value of ``gap_source`` -> how the title of the density plot names it."""


def write_refit(
    run: TrackedRun,
    refit: GapFit,
    samples: Sequence[str],
    corrupted: Sequence[str] | None,
    *,
    validation: GapFit | None = None,
    validation_samples: Sequence[str] = (),
    branches: bool = False,
) -> None:
    """Log a refit: mixtures, density plot and tables, then the plot again as a step of the images.

    Args:
        run: the run to log to.
        refit: the fit to log.
        samples: stable ids of the training samples.
        corrupted: per training sample the deliberately corrupted modality; None if unknown.
        validation: the fit of the validation samples at the same time; None = there is none.
        validation_samples: stable ids of the validation samples.
        branches: whether the gaps are of branches that see each other; the plot then says so.
    """
    plot = density_plot(refit, validation, branches=branches, caption=run_caption(run))
    folder = names.refit_folder(refit.epoch)
    with TemporaryDirectory() as temporary:
        local = Path(temporary)
        (local / names.MIXTURE_FILE).write_text(refit.mixture.to_json() + "\n", "utf-8")
        (local / names.DENSITY_FILE).write_bytes(plot)
        gap_table(refit, samples, corrupted).to_parquet(local / names.GAPS_FILE, index=False)
        if validation is not None:
            (local / names.VALIDATION_MIXTURE_FILE).write_text(validation.mixture.to_json() + "\n", "utf-8")
            # Corruption is planted in training samples only.
            clean = None if corrupted is None else [""] * len(validation_samples)
            table = gap_table(validation, validation_samples, clean)
            table.to_parquet(local / names.VALIDATION_GAPS_FILE, index=False)
        for name in _files(with_validation=validation is not None):
            run.log_file(local / name, folder)
    for key, step in _images(refit.epoch):
        if not _has_image(run, key, step):  # step 0 keeps the first fit
            run.log_step_image(plot, key, step)


def _images(epoch: int) -> tuple[tuple[str, int], ...]:
    """Return key and step of the images that a run with a refit after ``epoch`` epochs has."""
    return (names.DENSITY_IMAGE_KEY, epoch), (names.FIRST_IMAGE_KEY, 0), (names.FIRST_IMAGE_KEY, epoch)


def _files(*, with_validation: bool) -> tuple[str, ...]:
    """Return the names of a refit's files, in the order in which they are logged."""
    validation = (names.VALIDATION_MIXTURE_FILE, names.VALIDATION_GAPS_FILE) if with_validation else ()
    return (names.MIXTURE_FILE, names.DENSITY_FILE, names.GAPS_FILE, *validation)


def run_caption(run: TrackedRun) -> str:
    """Return data set, method and seed of a run, for the captions of its figures; empty where its tags do not say."""
    tags = run.read().data.tags
    seed = f"seed {tags['mm.seed']}" if "mm.seed" in tags else ""
    return ", ".join(item for item in (tags.get("mm.dataset", ""), tags.get("mm.method", ""), seed) if item)


def density_plot(refit: GapFit, validation: GapFit | None, *, branches: bool, caption: str = "") -> bytes:
    """Plot histogram and mixture of the gaps, and below them those of the validation samples, as PNG."""
    leading, *others = [f"{name} branch" if branches else name for name in refit.probabilities]
    figure = mixture_density(
        refit.gaps.numpy(),
        refit.mixture,
        validation=None if validation is None else (validation.gaps.numpy(), validation.mixture),
        title=f"Modality gap after epoch {refit.epoch}{SOURCES[refit.source]}",
        leading=leading,
        other=others[0] if len(others) == 1 else "the best other",
        caption=caption,
    )
    return save_png(figure)


@dataclass(frozen=True)
class PublishedRefit:
    """A refit as logged on its run.

    Attributes:
        epoch: epochs finished.
        gaps: ``(samples,)`` float64, of the training samples.
        mixture: mixture of these gaps.
        density: the density plot as PNG.
        validation: gaps ``(samples,)`` and mixture of the validation samples; None = an older run, without them.
    """

    epoch: int
    gaps: np.ndarray
    mixture: Mixture
    density: bytes
    validation: tuple[np.ndarray, Mixture] | None = None


def refit_epochs(run: TrackedRun) -> list[int]:
    """Return the epochs after which the run has logged a refit, in order."""
    return sorted(names.refit_epoch(folder) for folder in run.artifact_names(names.REFITS_FOLDER))


def stage_run(run: TrackedRun) -> TrackedRun:
    """Return the run that has the refits: the last stage of a run of ``main``, or the run itself."""
    if refit_epochs(run):
        return run
    nested = children(run)
    return nested.get("adaptive") or nested.get("warmup") or run


def read_refit(run: TrackedRun, epoch: int) -> PublishedRefit:
    """Read the refit after ``epoch`` epochs. Raises UserError if it, or one of its files, is missing."""
    logged = run.artifact_names(names.refit_folder(epoch))
    with_validation = f"{names.refit_folder(epoch)}/{names.VALIDATION_GAPS_FILE}" in logged
    with TemporaryDirectory() as temporary:
        files = _fetch(run, epoch, Path(temporary), with_validation=with_validation)
        return PublishedRefit(
            epoch=epoch,
            gaps=_read_gaps(files[names.GAPS_FILE]),
            mixture=_read_mixture(files[names.MIXTURE_FILE]),
            density=files[names.DENSITY_FILE].read_bytes(),
            validation=(
                _read_gaps(files[names.VALIDATION_GAPS_FILE]),
                _read_mixture(files[names.VALIDATION_MIXTURE_FILE]),
            )
            if with_validation
            else None,
        )


def read_refits(run: TrackedRun) -> list[PublishedRefit]:
    """Read all refits of the run, in order of epoch. Raises UserError if a file of one is missing."""
    return [read_refit(run, epoch) for epoch in refit_epochs(run)]


def read_gap_table(run: TrackedRun, epoch: int) -> pd.DataFrame:
    """Read the whole table of ``gap_table``. Raises UserError if the run has none after ``epoch`` epochs."""
    with TemporaryDirectory() as folder:
        return pd.read_parquet(run.fetch(f"{names.refit_folder(epoch)}/{names.GAPS_FILE}", Path(folder)))


def read_validation_table(run: TrackedRun, epoch: int) -> pd.DataFrame | None:
    """Read the same table of the validation samples; None = an older run, without one."""
    path = f"{names.refit_folder(epoch)}/{names.VALIDATION_GAPS_FILE}"
    if path not in run.artifact_names(names.refit_folder(epoch)):
        return None
    with TemporaryDirectory() as folder:
        return pd.read_parquet(run.fetch(path, Path(folder)))


def is_complete(run: TrackedRun, epoch: int, *, with_validation: bool = False) -> bool:
    """Whether the run has everything that ``write_refit`` logs, and every file can be read completely.

    ``with_validation``: including the files of the validation samples.

    A killed process may have sent only the first files, and a store without atomic writes may keep a truncated last file.
    """
    with TemporaryDirectory() as temporary:
        local = Path(temporary)
        try:
            files = _fetch(run, epoch, local, with_validation=with_validation)
            _read_picture(files.pop(names.DENSITY_FILE))
            for name, path in files.items():
                _read_mixture(path) if name.endswith(".json") else pd.read_parquet(path)
        except (UserError, OSError, ValueError):
            return False
    return all(_has_image(run, key, step) for key, step in _images(epoch))


def _fetch(run: TrackedRun, epoch: int, local: Path, *, with_validation: bool) -> dict[str, Path]:
    """Download the files of a refit: name -> local path. Raises UserError if one is missing."""
    folder = names.refit_folder(epoch)
    return {name: run.fetch(f"{folder}/{name}", local) for name in _files(with_validation=with_validation)}


def _read_mixture(path: Path) -> Mixture:
    return Mixture.from_json(path.read_text("utf-8"))


def _read_gaps(path: Path) -> np.ndarray:
    return pd.read_parquet(path, columns=["gap"])["gap"].to_numpy()


def _has_image(run: TrackedRun, key: str, step: int) -> bool:
    """Whether a step of an image is complete, at least once: the image and its compressed copy."""
    with TemporaryDirectory() as temporary:
        return any(_is_complete_image(run, pair, Path(temporary)) for pair in run.step_images(key, step))


def _is_complete_image(run: TrackedRun, pair: tuple[str, str], local: Path) -> bool:
    try:
        for path in pair:
            _read_picture(run.fetch(path, local))
    except (UserError, OSError):
        return False
    return True


def _read_picture(path: Path) -> None:
    """Decode an image. Raises OSError if it is truncated."""
    with Image.open(path) as image:
        image.load()
