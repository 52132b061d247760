"""Files of dead processes in the cache folder: half-written ones, work folders of finished runs, marks, spools."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from mm_balance import names
from mm_balance.folders import cache_folder, work_folder
from mm_balance.repair.finding import Finding
from mm_balance.study.storage import dead_worker_locks
from mm_balance.tracking import presence
from mm_balance.tracking.lookup import find_run
from mm_balance.tracking.outage.client import SYNC
from mm_balance.tracking.outage.spool import undelivered

QUIET_SECONDS = 600.0
"""A temporary file that was changed within this time may be one that a process of another machine is writing."""


def half_written_files() -> list[Finding]:
    """Return the temporary files of checkpoints that were never finished."""
    return [
        Finding(
            f"half-written file {path}",
            "removed",
            "the checkpoint that it was to replace is whole",
            partial(_remove, path),
        )
        for path in sorted(cache_folder().glob("runs/*/.*"))
        if path.is_file()
        and not presence.workers_on(path.parent.name)
        and time.time() - path.stat().st_mtime > QUIET_SECONDS
    ]


def work_folders() -> list[Finding]:
    """Return the work folders that nothing needs any more, and those of runs that this store does not have."""
    findings = []
    for folder in sorted(cache_folder().glob("runs/*/")):
        if presence.workers_on(folder.name):
            continue
        run = find_run(folder.name)
        if run is None:
            findings.append(
                Finding(
                    f"work folder {folder}", then="its run is not in this store: remove it if it is in no other one"
                )
            )
        elif run.read().info.status == "FINISHED" and _has_its_checkpoint(run.artifact_names(names.CHECKPOINT_FOLDER)):
            close = partial(shutil.rmtree, work_folder(run.run_id), ignore_errors=True)
            findings.append(
                Finding(f"work folder {folder}", "removed", "its checkpoints are artifacts of the run", close)
            )
    return findings


def _has_its_checkpoint(artifacts: list[str]) -> bool:
    return f"{names.CHECKPOINT_FOLDER}/{names.CHECKPOINT_LAST}" in artifacts


def dead_marks() -> list[Finding]:
    """Return the files by which dead processes said that they work on runs that have ended, or on trials.

    Those of unfinished runs stay: they tell that the run is dead.
    """
    findings = []
    for run_id in presence.marked_runs():
        dead = [mark for mark in presence.marks(run_id) if not mark.alive]
        run = find_run(run_id) if dead else None
        if run is not None and run.read().info.status != "RUNNING":
            close = partial(presence.remove_dead, run_id)
            findings.append(Finding(f"{len(dead)} lock(s) of dead processes on run {run_id}", "removed", close=close))
    for path in dead_worker_locks():
        findings.append(Finding(f"lock {path} of a dead worker", "removed", close=partial(_remove, path)))
    return findings


def spools() -> list[Finding]:
    """Return what dead processes have logged while a server was away, and nobody has delivered yet."""
    return [
        Finding(
            f"{count} entries for {server}, in {folder}", then=f"deliver them with: MLFLOW_TRACKING_URI={server} {SYNC}"
        )
        for folder, (server, count) in undelivered().items()
    ]


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
