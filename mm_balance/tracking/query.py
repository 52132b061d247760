"""Read runs back as plain records: what analysis works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mm_balance import names
from mm_balance.tracking.runs import TrackedRun


@dataclass(frozen=True)
class RunRecord:
    """A run as it is now: its last metrics, parameters and tags."""

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
    """One run, of whatever experiment."""
    return _record(MlflowClient().get_run(run_id))


def _record(run: Run) -> RunRecord:
    return RunRecord(
        run.info.run_id, run.info.run_name, run.info.status, run.data.metrics, run.data.params, run.data.tags
    )


def find_runs(experiment: str, tags: Mapping[str, str] | None = None, status: str = "FINISHED") -> list[RunRecord]:
    """The runs of an experiment with these tags and this status, newest first; empty where there is no experiment."""
    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    clauses = [
        f"attributes.status = '{status}'",
        *(f"tags.`{name}` = '{value}'" for name, value in (tags or {}).items()),
    ]
    records, token = [], None
    while True:
        page = client.search_runs(
            [found.experiment_id], " and ".join(clauses), order_by=["attributes.start_time DESC"], page_token=token
        )
        records += [_record(run) for run in page]
        token = page.token
        if not token:
            return records


def metric_series(run_id: str, name: str) -> list[tuple[int, float]]:
    """A metric's points as (step, value), by step."""
    return sorted((item.step, item.value) for item in MlflowClient().get_metric_history(run_id, name))


def read_gap_table(run_id: str, epoch: int) -> pd.DataFrame:
    """The table of gaps of one refit. Raises UserError where the run has none at ``epoch``."""
    run = TrackedRun(MlflowClient(), run_id)
    with TemporaryDirectory() as folder:
        return pd.read_parquet(run.fetch(f"{names.refit_folder(epoch)}/gaps.parquet", Path(folder)))


def refit_epochs(run_id: str) -> list[int]:
    """Epochs after which the run has published a refit."""
    run = TrackedRun(MlflowClient(), run_id)
    return sorted(int(path.rsplit("_", 1)[1]) for path in run.artifact_names("refits"))
