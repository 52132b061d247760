"""Finding, creating and adopting runs; experiments and links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mm_balance.errors import UserError
from mm_balance.redaction import redact, without_credentials
from mm_balance.tracking.runs import TrackedRun, create_experiment
from mm_balance.tracking.store import new_client

OLDEST_FIRST = "attributes.start_time ASC"
NEWEST_FIRST = "attributes.start_time DESC"
DEFAULT_EXPERIMENT = "0"
CHOICE_VARIABLES = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Environment variables that decide where a new run belongs."""


def adopted_run_id() -> str | None:
    """Return the id of the run that ``mlflow run`` created for this process, if any."""
    return os.environ.get("MLFLOW_RUN_ID")


def open_run(name: str, *, parent: TrackedRun | None = None, tags: Mapping[str, str] | None = None) -> TrackedRun:
    """Adopt the run that ``mlflow run`` created, or create one; with ``parent``, create a nested run.

    The experiment is the parent's, the project run's, or the one named by ``MLFLOW_EXPERIMENT_NAME``, else Default. A new run is
    created with ``tags``.
    """
    adopted = adopted_run_id()
    if parent is None and adopted is not None:
        run = TrackedRun(adopted)
        run.adopt(name)
        return run
    all_tags = resolve_tags({}) | dict(tags or {})  # user, source, git commit, as MLflow itself records them
    if parent is not None:
        all_tags[MLFLOW_PARENT_RUN_ID] = parent.run_id
    experiment = parent.read().info.experiment_id if parent is not None else current_experiment()
    return TrackedRun.create(experiment, name, all_tags)


def existing_run(run_id: str, parameter: str) -> TrackedRun:
    """Return the run ``run_id`` that the user gave in ``parameter``. Raises UserError if there is none."""
    run = find_run(run_id)
    if run is None:
        raise UserError(f"{parameter}={run_id}: no such run in {tracking_uri()}; check the id and MLFLOW_TRACKING_URI")
    return run


def find_run(run_id: str) -> TrackedRun | None:
    """Return the run ``run_id``; None if the tracking store does not have it (any more)."""
    run = TrackedRun(run_id)
    try:
        run.read()
    except MlflowException:
        return None
    return run


def current_experiment() -> str:
    """Return the id of the experiment for new runs; create it if needed."""
    if (experiment := _find_experiment()) is not None:
        return experiment
    try:
        return create_experiment(_experiment_name())
    except MlflowException:  # another process created it first
        if (experiment := _find_experiment()) is None:
            raise
        return experiment


def current_experiment_name() -> str:
    """Return the name of the experiment for new runs."""
    if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return new_client().get_experiment(identity).name
    return _experiment_name()


def experiment_name(run: TrackedRun) -> str:
    """Return the name of the experiment that a run is in."""
    name: str = new_client().get_experiment(run.read().info.experiment_id).name
    return name


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")


def _find_experiment() -> str | None:
    """Return the id of the experiment for new runs; None if it does not exist yet."""
    if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identity
    experiment = new_client().get_experiment_by_name(_experiment_name())
    return None if experiment is None else experiment.experiment_id


def chosen_experiment() -> str | None:
    """Return the name of the experiment that the user has chosen, in the environment or for ``mlflow run``; None = Default."""
    adopted = adopted_run_id()
    identity = TrackedRun(adopted).read().info.experiment_id if adopted is not None else _find_experiment()
    if identity is None:
        return _experiment_name()
    return None if identity == DEFAULT_EXPERIMENT else new_client().get_experiment(identity).name


@contextmanager
def in_experiment(name: str) -> Iterator[None]:
    """Have this process, and those that it starts meanwhile, open new runs in the experiment ``name``, and adopt none."""
    before = {variable: os.environ.get(variable) for variable in CHOICE_VARIABLES}
    for variable in CHOICE_VARIABLES:
        os.environ.pop(variable, None)
    os.environ["MLFLOW_EXPERIMENT_NAME"] = name
    try:
        yield
    finally:
        os.environ.update({variable: value for variable, value in before.items() if value is not None})
        for variable in (variable for variable, value in before.items() if value is None):
            os.environ.pop(variable, None)


def prepare_store() -> None:
    """Create store and experiment before several processes write to them."""
    current_experiment()


def search_runs(experiment: str, clauses: Sequence[str], order: str) -> list[Run]:
    """Return all runs of the experiment with this id that match every clause, in ``order``."""
    client = new_client()
    records: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], " and ".join(clauses), order_by=[order], page_token=token)
        records += page
        token = page.token
        if not token:
            return records


def tag_clauses(tags: Mapping[str, str]) -> list[str]:
    """Return clauses for ``search_runs`` that match runs with all these tags."""
    return [f"tags.`{name}` = '{value}'" for name, value in tags.items()]


def children(run: TrackedRun) -> dict[str, TrackedRun]:
    """Return the nested runs of ``run`` by stage tag; of several with the same stage, the newest."""
    return {
        item.data.tags["mm.stage"]: TrackedRun(item.info.run_id)
        for item in _nested(run, {})
        if "mm.stage" in item.data.tags
    }


def relatives(run: TrackedRun) -> list[str]:
    """Return the ids of the run that ``run`` is nested in, and of those nested in it."""
    parent = run.read().data.tags.get(MLFLOW_PARENT_RUN_ID)
    return [*([] if parent is None else [parent]), *(item.info.run_id for item in _nested(run, {}))]


def nested_runs(run: TrackedRun, tags: Mapping[str, str]) -> list[TrackedRun]:
    """Return the nested runs of ``run`` with these tags, in any status, oldest first."""
    return [TrackedRun(item.info.run_id) for item in _nested(run, tags)]


def _nested(run: TrackedRun, tags: Mapping[str, str]) -> list[Run]:
    clauses = tag_clauses({MLFLOW_PARENT_RUN_ID: run.run_id, **tags})
    return search_runs(run.read().info.experiment_id, clauses, OLDEST_FIRST)


def find_warmup(fingerprint: str) -> TrackedRun | None:
    """Return the newest finished warm-up with this fingerprint, preferably from the current experiment."""
    client = new_client()
    current = _find_experiment()
    active = [item.experiment_id for item in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    clauses = [
        *tag_clauses({"mm.fingerprint": fingerprint, "mm.stage": "warmup"}),
        "attributes.status = 'FINISHED'",
    ]
    for experiments in ([current] if current else [], active):
        if not experiments:  # MLflow would search the default experiment
            continue
        newest = client.search_runs(experiments, " and ".join(clauses), order_by=[NEWEST_FIRST], max_results=1)
        if newest:
            return TrackedRun(newest[0].info.run_id)
    return None


def run_link(run: TrackedRun) -> str:
    """Return the URL of a run in the MLflow UI (on ``localhost:5000`` if the store is not a server).

    Without ``workflowType``, a new browser session opens the page in the mode for language models.
    """
    return f"{server_address()}/#/experiments/{run.read().info.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"


def page_link(run: TrackedRun, artifact: str = "") -> str:
    """Return a link from one page of the MLflow UI to a run, or to one of its artifacts: it works on any server."""
    shown = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{run.read().info.experiment_id}/runs/{run.run_id}{shown}?workflowType=machine_learning"


def child_environment(run: TrackedRun) -> dict[str, str]:
    """Return environment variables for a process that logs to the experiment of ``run``."""
    return {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "MLFLOW_EXPERIMENT_ID": run.read().info.experiment_id}


def tracking_uri() -> str:
    """Return the URI of the tracking store, without its password: it is printed."""
    return redact(mlflow.get_tracking_uri())


def server_address() -> str:
    """Return the address of the MLflow UI, for links: the server's without credentials, else where ``mlflow ui`` will be."""
    uri = mlflow.get_tracking_uri()
    return without_credentials(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
