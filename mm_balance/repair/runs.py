"""Runs that are RUNNING although their process is dead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from mm_balance import names
from mm_balance.config import format_value
from mm_balance.repair.finding import Finding
from mm_balance.tracking import presence
from mm_balance.tracking.runs import TrackedRun
from mm_balance.tracking.unfinished import Life, UnfinishedRun
from mm_balance.workflow.next_steps import command_line

RESUMED = ("main", "warmup", "adaptive", "train")
"""Stages whose runs can be resumed by ``resume_run``."""


def dead_runs(
    runs: Sequence[UnfinishedRun], older_than_hours: float | None, closed: Collection[str] = ()
) -> list[Finding]:
    """Return what to do with every unfinished run: nested ones first, since a run is closed only if nothing in it may live.

    Args:
        runs: all unfinished runs of the store.
        older_than_hours: see ``RepairConfig``.
        closed: runs that something else closes.
    """
    findings, done = list[Finding](), set(closed)
    for family in _families(runs):
        outer = family[0].parent
        if any(run.life is Life.LIVING for run in family) or (outer is not None and presence.workers_on(outer)):
            continue
        hours = min(run.silent_hours for run in family)
        old = older_than_hours is not None and hours > older_than_hours
        for run in (item for item in reversed(family) if item.run_id not in closed):
            inner = [item for item in family if item.parent == run.run_id]
            dead = (run.life is Life.DEAD or old) and all(item.run_id in done for item in inner)
            if dead:
                done.add(run.run_id)
            findings.append(_finding(run, inner, hours, dead=dead))
    return findings


def _families(runs: Sequence[UnfinishedRun]) -> list[list[UnfinishedRun]]:
    """Return the runs by the outermost unfinished run that they are nested in, every run before those nested in it."""
    known = {run.run_id: run for run in runs}
    inner: dict[str, list[UnfinishedRun]] = {}
    for run in runs:
        if run.parent in known:
            inner.setdefault(str(run.parent), []).append(run)

    def with_nested(run: UnfinishedRun) -> list[UnfinishedRun]:
        return [run, *(item for nested in inner.get(run.run_id, ()) for item in with_nested(nested))]

    return [with_nested(run) for run in runs if run.parent not in known]


def _finding(run: UnfinishedRun, inner: Sequence[UnfinishedRun], hours: float, *, dead: bool) -> Finding:
    what = f"run {run.run_id} ({run.name})"
    if run.process:
        what += f", {'of ' if run.life is not Life.DEAD else 'of the dead '}{run.process}"
    if dead:
        return Finding(what, "closed as KILLED", _how_to_go_on(run), _closing(run))
    if run.life is Life.DEAD:
        return Finding(what, then=f"{len(inner)} run(s) nested in it may still be under way on another machine")
    return Finding(
        what,
        then=f"whether it is alive cannot be seen from here: nothing logged for {format_value(round(hours, 1))} hours; if it is dead, "
        "close it with -P older_than_hours=HOURS",
    )


def _closing(run: UnfinishedRun) -> Callable[[], None]:
    def close() -> None:
        tracked = TrackedRun(run.run_id)
        tracked.set_tags({"mm.error": "its process died; closed by repair"})
        tracked.terminate("KILLED")

    return close


def _how_to_go_on(run: UnfinishedRun) -> str:
    """Return what to do to have the run finished."""
    if run.row:
        return "the same reproduce command goes on with it"
    if run.study is not None:
        return f"the same study command goes on with study {run.study}"
    if run.parent is not None:
        return f"it belongs to run {run.parent}"
    if run.stage not in RESUMED or names.CONFIG_FILE not in TrackedRun(run.run_id).artifact_names(""):
        return "run the same command again"
    return f"go on with: {command_line(run.stage, {'resume_run': run.run_id})}"
