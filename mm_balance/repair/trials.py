"""Trials of studies whose workers are dead."""

from __future__ import annotations

from collections.abc import Sequence

from mm_balance.errors import UserError
from mm_balance.repair.finding import Finding
from mm_balance.study.stale import stale_trials
from mm_balance.tracking.runs import TrackedRun
from mm_balance.tracking.unfinished import UnfinishedRun


def dead_trials(runs: Sequence[UnfinishedRun]) -> tuple[list[Finding], set[str]]:
    """Return the dead trials of every study that has an unfinished run, and the ids of their runs, which are closed with them."""
    findings, closed = list[Finding](), set[str]()
    studies = {(run.study, run.run_id if run.stage == "study" else run.parent) for run in runs if run.study}
    for name, parent in sorted((name, parent) for name, parent in studies if parent is not None):
        storage = TrackedRun(parent).read().data.tags.get("study/storage", "auto")
        try:
            found = stale_trials(name, storage, parent)
        except UserError as error:
            findings.append(Finding(f"study {name}", then=f"its trials cannot be looked at: {error}"))
            continue
        closed |= {trial.run_id for trial in found}
        for trial in found:
            what = f"trial {trial.number} of study {name}, of a dead worker"
            then = "the same study command goes on with it"
            findings.append(Finding(what, "failed, and queued again unless it was killed before", then, trial.close))
    return findings, closed
