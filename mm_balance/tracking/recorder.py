"""The loop's recorder on MLflow: checkpoints, points, refits, each exactly once whatever happens in between."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mm_balance import names
from mm_balance.engine.checkpoint import gap_fit_from_state, read_checkpoint, write_checkpoint
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import UserError
from mm_balance.figures import mixture_density, save_png
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import GapFit


class MlflowRecorder:
    """Saves to a local working folder first, then uploads; publishes one batch of metrics per epoch.

    Args:
        run: where to.
        work_folder: local folder of this run's checkpoints; it survives a kill and is removed by ``close``.
        samples: stable ids of the training samples, for the table of gaps.
        corrupted: per training sample the modality corrupted on purpose, or None where unknown.
        branches: whether the gaps are of branches that see each other; pictures then say so.
        upload: whether checkpoints become artifacts; without, they stay in the working folder.
        watch: called with every point that was published, those of an earlier process too.

    Attributes:
        seconds: time spent on tracking: metrics, refits, uploads of checkpoints.
        checkpoint_seconds: time spent on writing checkpoints to disk, which training needs without tracking too.
        refit_seconds: time spent per published refit.
    """

    def __init__(
        self,
        run: TrackedRun,
        work_folder: Path,
        samples: Sequence[str],
        corrupted: Sequence[str] | None,
        *,
        branches: bool = False,
        upload: bool = True,
        watch: Callable[[MetricPoint], None] = lambda point: None,
    ) -> None:
        self.run = run
        self.work_folder = work_folder
        self.samples = samples
        self.corrupted = corrupted
        self.branches = branches
        self.upload = upload
        self.watch = watch
        self.seconds = 0.0
        self.checkpoint_seconds = 0.0
        self.refit_seconds: list[float] = []

    def save(self, state: dict[str, Any]) -> None:
        clocks = {
            "seconds": self.seconds,
            "checkpoint_seconds": self.checkpoint_seconds,
            "refit_seconds": self.refit_seconds,
        }
        self._save({**state, "clocks": clocks}, names.CHECKPOINT_LAST)

    def go_on(self, state: dict[str, Any]) -> None:
        """Count on from what earlier processes of the run have spent, as its checkpoint says."""
        clocks = state["clocks"]
        self.seconds, self.checkpoint_seconds = clocks["seconds"], clocks["checkpoint_seconds"]
        self.refit_seconds = list(clocks["refit_seconds"])

    def save_best(self, state: dict[str, Any]) -> None:
        self._save(state, names.CHECKPOINT_BEST)

    def publish(self, point: MetricPoint, refit: GapFit | None) -> None:
        with self._timed():
            self.run.log_points([point])
            if refit is not None:
                self._publish_refit(refit)
        self.watch(point)

    def load(self, name: str = names.CHECKPOINT_LAST) -> dict[str, Any] | None:
        """The newest readable checkpoint of the run, from the working folder or the artifacts; None = none yet.

        Two places, because a kill during an upload can leave a part of a file in the artifact store.

        Raises:
            UserError: there are some, but none can be read: to begin anew would log every epoch twice.
        """
        found, reasons = [], []
        with tempfile.TemporaryDirectory() as folder:
            uploaded = f"{names.CHECKPOINT_FOLDER}/{name}"
            paths = [self.work_folder / name]
            if uploaded in self.run.artifact_names(names.CHECKPOINT_FOLDER):
                paths.append(self.run.fetch(uploaded, Path(folder)))
            for path in paths:
                if not path.is_file():
                    continue
                try:
                    found.append(read_checkpoint(path))
                except UserError as error:
                    reasons.append(str(error))
        if reasons and not found:
            raise UserError(f"run {self.run.run_id} cannot go on: {'; '.join(reasons)}")
        return max(found, key=_age) if found else None

    def reconcile(self, state: dict[str, Any]) -> None:
        """After a kill: send the points and the refit of ``state`` that the server lacks."""
        points = [MetricPoint(**point) for point in state["points"]]
        self.run.send_missing(points)
        for point in points:
            self.watch(point)
        if state["refit"] is None:
            return
        refit = gap_fit_from_state(state["refit"])
        folder = names.refit_folder(refit.epoch)
        image = f"step+{refit.epoch}+"
        if any(image in path.replace("%", "+") for path in self.run.artifact_names("images")):
            return
        if refit.epoch in {point["step"] for point in state["points"] if "gap/mean" in point["metrics"]}:
            self._publish_refit(refit, folder)

    def close(self) -> None:
        """Remove the working folder: the run has ended well and its checkpoints are artifacts."""
        shutil.rmtree(self.work_folder, ignore_errors=True)

    def _save(self, state: dict[str, Any], name: str) -> None:
        path = self.work_folder / name
        started = time.perf_counter()
        write_checkpoint(state, path)
        self.checkpoint_seconds += time.perf_counter() - started
        if not self.upload:
            return
        with self._timed():
            self.run.client.log_artifact(self.run.run_id, str(path), names.CHECKPOINT_FOLDER)

    def _publish_refit(self, refit: GapFit, folder: str | None = None) -> None:
        started = time.perf_counter()
        modalities = [f"{name} branch" if self.branches else name for name in refit.probabilities]
        figure = mixture_density(
            refit.gaps.numpy(),
            refit.mixture,
            title=f"Modality gap after epoch {refit.epoch}",
            leading=modalities[0],
            other=modalities[1] if len(modalities) == 2 else "the best other",
        )
        png = save_png(figure)
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            (local / "density.png").write_bytes(png)
            (local / "mixture.json").write_text(refit.mixture.to_json() + "\n", "utf-8")
            gap_table(refit, self.samples, self.corrupted).to_parquet(local / "gaps.parquet", index=False)
            self.run.client.log_artifacts(self.run.run_id, temporary, folder or names.refit_folder(refit.epoch))
            with Image.open(local / "density.png") as image:
                self.run.client.log_image(
                    self.run.run_id, np.asarray(image.convert("RGB")), key=names.DENSITY_IMAGE_KEY, step=refit.epoch,
                    synchronous=True,
                )  # fmt: skip
        self.refit_seconds.append(time.perf_counter() - started)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


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


def _age(state: dict[str, Any]) -> tuple[int, int]:
    progress = state.get("progress", {"stage_epoch": state.get("epoch", 0), "batch": 0})
    return progress["stage_epoch"], progress["batch"]


def read_gaps(path: Path) -> np.ndarray:
    """The ``gap`` column of a table written by ``gap_table``, ``(samples,)`` float64."""
    return pd.read_parquet(path, columns=["gap"])["gap"].to_numpy()
