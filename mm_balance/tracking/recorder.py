"""MLflow recorder of the training loop: checkpoints, metric points and refits, each exactly once even after a kill."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm_balance import names
from mm_balance.engine.checkpoint import (
    gap_fit_from_state,
    read_checkpoint,
    validation_fit_from_state,
    write_checkpoint,
)
from mm_balance.engine.recorder import MetricPoint, OnPoint, ignore_point
from mm_balance.errors import UserError
from mm_balance.tracking import refits
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import GapFit


class MlflowRecorder:
    """Save to a local working folder first, then upload; publish one batch of metrics per epoch.

    Args:
        run: the run to log to.
        work_folder: local folder of this run's checkpoints; it survives a kill and is removed by ``close``.
        samples: stable ids of the training samples, for the table of gaps.
        corrupted: per training sample the deliberately corrupted modality; None if unknown.
        validation_samples: stable ids of the validation samples.
        branches: whether the gaps are of branches that see each other; figures then say so.
        upload: whether checkpoints become artifacts; if not, they stay in the working folder.
        on_point: called with every published point, including those of an earlier process.

    Attributes:
        seconds: time spent on tracking: metrics, refits, uploads of checkpoints.
        checkpoint_seconds: time spent writing checkpoints to disk, which training needs even without tracking.
        refit_seconds: time spent per published refit.
    """

    def __init__(
        self,
        run: TrackedRun,
        work_folder: Path,
        samples: Sequence[str],
        corrupted: Sequence[str] | None,
        *,
        validation_samples: Sequence[str] = (),
        branches: bool = False,
        upload: bool = True,
        on_point: OnPoint = ignore_point,
    ) -> None:
        self.run = run
        self.work_folder = work_folder
        self.samples = samples
        self.corrupted = corrupted
        self.validation_samples = validation_samples
        self.branches = branches
        self.upload = upload
        self.on_point = on_point
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

    def restore_clocks(self, state: dict[str, Any]) -> None:
        """Restore the times spent by earlier processes of the run from its checkpoint."""
        clocks = state["clocks"]
        self.seconds, self.checkpoint_seconds = clocks["seconds"], clocks["checkpoint_seconds"]
        self.refit_seconds = list(clocks["refit_seconds"])

    def save_best(self, state: dict[str, Any]) -> None:
        self._save(state, names.CHECKPOINT_BEST)

    def publish(self, point: MetricPoint, refit: GapFit | None = None, validation: GapFit | None = None) -> None:
        with self._timed():
            self.run.log_points([point])
            if refit is not None:
                self._publish_refit(refit, validation)
        self.on_point(point)

    def load(self, name: str = names.CHECKPOINT_LAST) -> dict[str, Any] | None:
        """Return the newest readable checkpoint of the run, from the working folder or the artifacts; None = none yet.

        Both places are tried, because a kill during an upload can leave a truncated file in the artifact store.

        Raises:
            UserError: there are checkpoints, but none can be read; starting over would log every epoch twice.
        """
        states, reasons = [], []
        with tempfile.TemporaryDirectory() as folder:
            uploaded = f"{names.CHECKPOINT_FOLDER}/{name}"
            paths = [self.work_folder / name]
            if uploaded in self.run.artifact_names(names.CHECKPOINT_FOLDER):
                paths.append(self.run.fetch(uploaded, Path(folder)))
            for path in paths:
                if not path.is_file():
                    continue
                try:
                    states.append(read_checkpoint(path))
                except UserError as error:
                    reasons.append(str(error))
        if reasons and not states:
            raise UserError(f"run {self.run.run_id} cannot be resumed: {'; '.join(reasons)}")
        return max(states, key=_age) if states else None

    def reconcile(self, state: dict[str, Any]) -> None:
        """After a kill, send the points and the refit of ``state`` that are missing on the server."""
        points = [MetricPoint(**point) for point in state["points"]]
        self.run.send_missing(points)
        for point in points:
            self.on_point(point)
        if state["refit"] is None:
            return
        refit = gap_fit_from_state(state["refit"])
        # The fit in the state may be that of the warm-up, which belongs to another run.
        validation = validation_fit_from_state(state)
        belongs_here = refit.epoch in {point.step for point in points if "gap/mean" in point.metrics}
        if belongs_here and not refits.is_complete(self.run, refit.epoch, with_validation=validation is not None):
            self._publish_refit(refit, validation)

    def close(self) -> None:
        """Remove the working folder of a run that has finished and whose checkpoints are artifacts."""
        shutil.rmtree(self.work_folder, ignore_errors=True)

    def _save(self, state: dict[str, Any], name: str) -> None:
        path = self.work_folder / name
        started = time.perf_counter()
        write_checkpoint(state, path)
        self.checkpoint_seconds += time.perf_counter() - started
        if not self.upload:
            return
        with self._timed():
            self.run.log_file(path, names.CHECKPOINT_FOLDER)

    def _publish_refit(self, refit: GapFit, validation: GapFit | None) -> None:
        started = time.perf_counter()
        refits.write_refit(
            self.run,
            refit,
            self.samples,
            self.corrupted,
            validation=validation,
            validation_samples=self.validation_samples,
            branches=self.branches,
        )
        self.refit_seconds.append(time.perf_counter() - started)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


def _age(state: dict[str, Any]) -> tuple[int, int]:
    progress = state.get("progress", {"stage_epoch": state.get("epoch", 0), "batch": 0})
    return progress["stage_epoch"], progress["batch"]
