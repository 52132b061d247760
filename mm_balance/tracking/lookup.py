"""Find runs, open new ones, adopt the one that ``mlflow run`` has made; experiments and links."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mm_balance.errors import UserError
from mm_balance.tracking.runs import TrackedRun, create_experiment

OLDEST_FIRST = "attributes.start_time ASC"
NEWEST_FIRST = "attributes.start_time DESC"


def adopted_run_id() -> str | None:
    """Id of the run that ``mlflow run`` has made for this process, if any."""
    return os.environ.get("MLFLOW_RUN_ID")


def open_run(name: str, *, parent: TrackedRun | None = None, tags: Mapping[str, str] | None = None) -> TrackedRun:
    """Adopt the run ``mlflow run`` has made, or create one; with ``parent``, create a nested one.

    The experiment is the parent's, the project run's, or the one that ``MLFLOW_EXPERIMENT_NAME`` names, else Default. A new run
    has ``tags`` from its first moment.
    """
    adopted = adopted_run_id()
    if parent is None and adopted is not None:
        run = TrackedRun(adopted)
        run.rename(name)
        return run
    known = resolve_tags({}) | dict(tags or {})  # user, source, git commit, as MLflow itself records them
    if parent is not None:
        known[MLFLOW_PARENT_RUN_ID] = parent.run_id
    experiment = parent.read().info.experiment_id if parent is not None else current_experiment()
    return TrackedRun.create(experiment, name, known)


def existing_run(run_id: str, parameter: str) -> TrackedRun:
    """The run ``run_id`` that the user named in ``parameter``. Raises UserError where there is none."""
    run = TrackedRun(run_id)
    try:
        run.read()
    except MlflowException:
        raise UserError(
            f"{parameter}={run_id}: no such run in {mlflow.get_tracking_uri()}; check the id and MLFLOW_TRACKING_URI"
        ) from None
    return run


def current_experiment() -> str:
    """Id of the experiment for new runs; created where its name is new."""
    if (known := _known_experiment()) is not None:
        return known
    try:
        return create_experiment(_experiment_name())
    except MlflowException:  # another process was faster
        if (known := _known_experiment()) is None:
            raise
        return known


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")


def _known_experiment() -> str | None:
    """Id of the experiment for new runs; None where it is not made yet."""
    if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identity
    known = MlflowClient().get_experiment_by_name(_experiment_name())
    return None if known is None else known.experiment_id


def prepare_store() -> None:
    """Make store and experiment before several processes write to them: two that make a database at once both fail."""
    current_experiment()


def search_runs(experiment: str, clauses: Sequence[str], order: str) -> list[Run]:
    """The records of all runs in the experiment with this id that meet every clause, in ``order``."""
    client = MlflowClient()
    records: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], " and ".join(clauses), order_by=[order], page_token=token)
        records += page
        token = page.token
        if not token:
            return records


def tag_clauses(tags: Mapping[str, str]) -> list[str]:
    """Clauses of ``search_runs`` for runs that have all these tags."""
    return [f"tags.`{name}` = '{value}'" for name, value in tags.items()]


def children(run: TrackedRun) -> dict[str, TrackedRun]:
    """The nested runs of ``run``, by their stage tag; of several with one stage, the newest."""
    return {
        item.data.tags["mm.stage"]: TrackedRun(item.info.run_id)
        for item in _nested(run, {})
        if "mm.stage" in item.data.tags
    }


def nested_runs(run: TrackedRun, tags: Mapping[str, str]) -> list[TrackedRun]:
    """The nested runs of ``run`` with these tags, in any status, oldest first."""
    return [TrackedRun(item.info.run_id) for item in _nested(run, tags)]


def _nested(run: TrackedRun, tags: Mapping[str, str]) -> list[Run]:
    clauses = tag_clauses({MLFLOW_PARENT_RUN_ID: run.run_id, **tags})
    return search_runs(run.read().info.experiment_id, clauses, OLDEST_FIRST)


def find_warmup(fingerprint: str) -> TrackedRun | None:
    """The newest finished warm-up with this fingerprint: of the experiment at hand, else of any."""
    client = MlflowClient()
    own = _known_experiment()
    others = [item.experiment_id for item in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    clauses = [
        *tag_clauses({"mm.fingerprint": fingerprint, "mm.stage": "warmup"}),
        "attributes.status = 'FINISHED'",
    ]
    for experiments in ([own] if own else [], others):
        if not experiments:  # MLflow would search in the default one
            continue
        newest = client.search_runs(experiments, " and ".join(clauses), order_by=[NEWEST_FIRST], max_results=1)
        if newest:
            return TrackedRun(newest[0].info.run_id)
    return None


def run_link(run: TrackedRun) -> str:
    """The page of a run in the MLflow UI (on ``localhost:5000`` where the store is no server).

    ``workflowType`` makes a fresh browser open it among training runs; it would open in the mode for language models.
    """
    base = mlflow.get_tracking_uri()
    base = base if base.startswith("http") else "http://127.0.0.1:5000"
    return f"{base.rstrip('/')}/#/experiments/{run.read().info.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"


def child_environment(run: TrackedRun) -> dict[str, str]:
    """Variables for a process whose runs are to lie beside ``run``."""
    return {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "MLFLOW_EXPERIMENT_ID": run.read().info.experiment_id}


def tracking_uri() -> str:
    """Where runs are kept."""
    return mlflow.get_tracking_uri()
