"""Runs that are RUNNING, with what tells whether anybody works on them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME

import mm_balance
from mm_balance.tracking import presence
from mm_balance.tracking.lookup import OLDEST_FIRST, search_runs
from mm_balance.tracking.runs import PROCESS_TAG
from mm_balance.tracking.store import new_client


class Life(Enum):
    """Whether a process works on a run: one does; its process is dead; this machine cannot know."""

    LIVING, DEAD, UNKNOWN = "living", "dead", "unknown"


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is RUNNING.

    Attributes:
        run_id: its id.
        name: its name.
        parent: the run that it is nested in.
        stage: entry point or stage; empty = it was killed before it said so.
        study: the study that it belongs to.
        row: whether it belongs to a plan of `reproduce`.
        process: its last process, as the run says.
        life: whether that works on it.
        active: when it last logged a point, or began, in seconds since 1970.
    """

    run_id: str
    name: str
    parent: str | None
    stage: str
    study: str | None
    row: bool
    process: str
    life: Life
    active: float

    @property
    def silent_hours(self) -> float:
        return (time.time() - self.active) / 3600


def unfinished_runs() -> list[UnfinishedRun]:
    """Return all runs of the store that are RUNNING and ours, oldest first in each experiment.

    Those of other programs are not. One that ``mlflow run`` made for a command that never began is, where it was started here.
    """
    experiments = new_client().search_experiments(view_type=ViewType.ACTIVE_ONLY)
    clauses = ["attributes.status = 'RUNNING'"]
    found = [run for item in experiments for run in search_runs(item.experiment_id, clauses, OLDEST_FIRST)]
    return [_unfinished(run) for run in found if _is_ours(run.data.tags)]


def _is_ours(tags: Mapping[str, str]) -> bool:
    project = str(Path(mm_balance.__file__).parents[1])
    return PROCESS_TAG in tags or "mm.stage" in tags or tags.get(MLFLOW_SOURCE_NAME) == project


def _unfinished(run: Run) -> UnfinishedRun:
    tags = run.data.tags
    points = [item.timestamp for item in run.data._metric_objs]
    return UnfinishedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        parent=tags.get(MLFLOW_PARENT_RUN_ID),
        stage=tags.get("mm.stage", ""),
        study=tags.get("mm.study"),
        row="mm.row" in tags,
        process=tags.get(PROCESS_TAG, ""),
        life=life_of(run.info.run_id, tags.get(PROCESS_TAG, "")),
        active=max([run.info.start_time, *points]) / 1000,
    )


def life_of(run_id: str, process: str) -> Life:
    """Return whether anybody works on a run.

    Args:
        run_id: the run.
        process: its last process, as the run says (``mm.process``). A dead process of this machine proves nothing if a later one,
            of another machine, has continued the run since.
    """
    marks = presence.marks(run_id)
    if any(mark.alive for mark in marks):
        return Life.LIVING
    dead = [mark.process for mark in marks if mark.process is not None]
    if any(str(item) == process or item.since >= _since(process) for item in dead):
        return Life.DEAD
    return Life.UNKNOWN


def _since(process: str) -> str:
    """Return the time in the text of a process; empty, before all others, if there is none."""
    found = re.search(r"since (.+? UTC)", process)
    return found[1] if found else ""
