"""Runs as plain records, for analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mm_balance import names
from mm_balance.errors import UserError
from mm_balance.tracking.lookup import NEWEST_FIRST, search_runs, tag_clauses, tracking_uri
from mm_balance.tracking.runs import TrackedRun
from mm_balance.tracking.store import new_client


@dataclass(frozen=True)
class RunRecord:
    """Snapshot of a run: its latest metrics, parameters and tags.

    The single numbers of a nested run are among its metrics only where ``read_run`` has read them.
    """

    run_id: str
    name: str
    status: str
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def parent(self) -> str | None:
        return self.tags.get(MLFLOW_PARENT_RUN_ID)


def read_run(run_id: str) -> RunRecord:
    """Read one run, of any experiment; a nested one with its single numbers, wherever they are (older runs have metrics)."""
    run = TrackedRun(run_id)
    record = _record(run.read())
    if record.parent is None or record.metrics.keys() >= names.SELECTION_METRICS.keys():
        return record
    return replace(record, metrics={**record.metrics, **run.summary()})


def _record(run: Run) -> RunRecord:
    return RunRecord(
        run.info.run_id, run.info.run_name, run.info.status, run.data.metrics, run.data.params, run.data.tags
    )


def find_runs(experiment: str, tags: Mapping[str, str] | None = None, status: str = "FINISHED") -> list[RunRecord]:
    """Return the runs of an experiment with these tags and status, newest first; empty if there is no such experiment."""
    entity = new_client().get_experiment_by_name(experiment)
    if entity is None:
        return []
    clauses = [f"attributes.status = '{status}'", *tag_clauses(tags or {})]
    return [_record(run) for run in search_runs(entity.experiment_id, clauses, NEWEST_FIRST)]


def all_runs(experiment: str) -> list[RunRecord]:
    """Return all runs of an experiment in any status, newest first.

    Raises:
        UserError: there is no such experiment.
    """
    client = new_client()
    entity = client.get_experiment_by_name(experiment)
    if entity is None:
        there = ", ".join(sorted(item.name for item in client.search_experiments()))
        raise UserError(f"there is no experiment {experiment!r} in {tracking_uri()}; there are: {there}")
    return [_record(run) for run in search_runs(entity.experiment_id, [], NEWEST_FIRST)]
