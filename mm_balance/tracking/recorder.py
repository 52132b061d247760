"""MLflow recorder of the training loop: checkpoints, metric points and refits, each exactly once even after a kill."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
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

    The working folder keeps the last checkpoint and the one before. Only the last one is uploaded: an upload that a kill cuts off
    leaves both of them.

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
        self._last_is_whole = False
        self._published_until = -1

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
            if point.step > self._published_until:
                self.run.log_points([point])
            else:
                self.run.send_missing([point])
            if refit is not None:
                self._publish_refit(refit, validation)
        self.on_point(point)

    def load(self, name: str = names.CHECKPOINT_LAST) -> dict[str, Any] | None:
        """Return the newest checkpoint of the run that is whole, from the working folder or the artifacts; None = none yet.

        All places are tried, because a kill during an upload can leave a truncated file in the artifact store. Damage is said.

        Raises:
            UserError: there are checkpoints, but none can be read; starting over would log every epoch twice.
        """
        local, states, reasons = self.work_folder / name, list[dict[str, Any]](), list[str]()

        def read(path: Path, shown: str) -> bool:
            if not path.is_file():
                return False
            try:
                states.append(read_checkpoint(path))
            except UserError as error:
                reasons.append(str(error).replace(str(path), shown))
                return False
            return True

        whole = read(local, str(local))
        with tempfile.TemporaryDirectory() as folder:
            uploaded = f"{names.CHECKPOINT_FOLDER}/{name}"
            if uploaded in self.run.artifact_names(names.CHECKPOINT_FOLDER):
                read(self.run.fetch(uploaded, Path(folder)), f"{uploaded} of run {self.run.run_id}")
        if name == names.CHECKPOINT_LAST:
            self._last_is_whole = whole
            # Not only after damage: a kill may have come between keeping the one before and writing the next.
            if not whole and (previous := self.work_folder / names.CHECKPOINT_PREVIOUS).is_file():
                read(previous, str(previous))
        if reasons and not states:
            raise UserError(
                f"run {self.run.run_id} cannot be resumed: {'; '.join(reasons)}. If there is a backup of one of these files, put it "
                "back; otherwise repeat the command that began the run, without resume_run"
            )
        newest = max(states, key=_age) if states else None
        if newest is not None and reasons:
            epoch, batch = _age(newest)
            place = f"{epoch} epochs" + (f" and {batch} batches" if batch else "")
            _warn(f"{'; '.join(reasons)}; going on from a whole one, after {place} of the stage")
        return newest

    def reconcile(self, state: dict[str, Any]) -> None:
        """After a kill, send the points and the refit of ``state`` that are missing on the server."""
        points = [MetricPoint(**point) for point in state["points"]]
        self.run.send_missing(points)
        # Going on from the checkpoint before the last one trains an epoch again that was published.
        self._published_until = self.run.last_step("train/loss")
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
        if name == names.CHECKPOINT_LAST:
            # A damaged one must not take the place of the whole one before it.
            previous = self.work_folder / names.CHECKPOINT_PREVIOUS if self._last_is_whole else None
            write_checkpoint(state, path, previous=previous)
            self._last_is_whole = True
        else:
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


@cache
def _warn(line: str) -> None:
    """Print a warning, once per process: a command reads a checkpoint several times."""
    print(f"mm-balance: warning: {line}", file=sys.stderr)
