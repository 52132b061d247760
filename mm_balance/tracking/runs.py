"""Runs of MLflow, by explicit id: no global active run, so nested and concurrent runs cannot mix.

``mlflow run`` creates a run before our process starts and names it in ``MLFLOW_RUN_ID``; that run is adopted. It has
already logged the raw texts of all ``-P`` parameters, which can never be changed: resolved values therefore go under
``config/<name>``.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from mm_balance import names
from mm_balance.config import format_value, options
from mm_balance.data import MultimodalData
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import UserError

# Our own progress bars say what happens; MLflow's for three files of a few kilobytes hide them.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow tells of every migration of a new database; ten lines of it hide our own.
for _name in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment", "mlflow.models.model"):
    logging.getLogger(_name).setLevel(logging.ERROR)

METRICS_PER_BATCH = 1000
INPUT_ATTEMPTS = 6
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}


class TrackedRun:
    """One run, addressed by its id. Every write goes through here.

    Attributes:
        run_id: MLflow's id.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def read(self) -> Run:
        """The run as the server knows it now."""
        return self.client.get_run(self.run_id)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; what they were before is lost."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def log_config(self, values: Mapping[str, Any]) -> None:
        """Resolved parameters by name: ``config.json``, and ``config/<name>`` for the table of runs.

        MLflow's parameters can never be changed. So those that may be others when a run is continued (more epochs, another device)
        are tags instead, which are set anew. A nested run leaves out what its parent says already.
        """
        declared = options()
        own = self.read().data.tags
        told = self._config_of(own.get(MLFLOW_PARENT_RUN_ID))
        texts = {f"{names.CONFIG_PREFIX}{name}": format_value(value) for name, value in values.items()}
        fresh = {name: text for name, text in texts.items() if told.get(name) != text or name in own}
        changing = {
            name
            for name in fresh
            if (item := declared[name.removeprefix(names.CONFIG_PREFIX)]).may_grow or item.machine
        }
        self.log_params({name: text for name, text in fresh.items() if name not in changing})
        self.set_tags({name: fresh[name] for name in sorted(changing)})
        self.log_json(dict(values), names.CONFIG_FILE)

    def _config_of(self, run_id: str | None) -> dict[str, str]:
        """What a run says of the configuration; empty where there is no run."""
        if run_id is None:
            return {}
        known = self.client.get_run(run_id).data
        return {
            name: text for name, text in {**known.params, **known.tags}.items() if name.startswith(names.CONFIG_PREFIX)
        }

    def log_params(self, values: Mapping[str, str]) -> None:
        """Parameters that the run lacks; what it has stays."""
        known = self.read().data.params
        parameters = [Param(name, value) for name, value in values.items() if name not in known]
        if parameters:
            self.client.log_batch(self.run_id, params=parameters)

    def log_data(self, data: MultimodalData, context: str) -> None:
        """The data set as an MLflow input (it shows in the table of runs), ``data.json``, and its card."""
        dataset = Dataset(
            name=data.name,
            digest=data.digest[:36],
            source_type="code" if data.name == "digits" else "local",
            source=json.dumps({"description": data.source, "recipe": data.recipe}),
            profile=json.dumps(data.counts),
        )
        self._log_input(DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", context)]))
        self.log_json(
            {
                "name": data.name,
                "digest": data.digest,
                "source": data.source,
                "recipe": data.recipe,
                "classes": list(data.classes),
                "counts": data.counts,
                "skipped": list(data.skipped),
                "excluded": list(data.excluded),
                "lists": data.lists,
                "notes": list(data.notes),
                "inputs": {name: asdict(spec) for name, spec in data.specs.items()},
            },
            names.DATA_FILE,
        )
        if data.card is not None and data.card.is_dir() and context != "evaluation":
            for file in (names.CARD_FILE, names.SHEET_FILE, names.SAMPLES_FILE):
                self.client.log_artifact(self.run_id, str(data.card / file), names.DATA_FOLDER)

    def _log_input(self, item: DatasetInput) -> None:
        """MLflow looks for the data set and then adds it, so of two runs that log it at the same moment one fails."""
        for attempt in range(INPUT_ATTEMPTS):
            try:
                self.client.log_inputs(self.run_id, datasets=[item])
                return
            except MlflowException:
                if attempt == INPUT_ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)

    def log_points(self, points: Iterable[MetricPoint]) -> None:
        """Send points, in one call for up to a thousand numbers."""
        metrics = [
            Metric(name, value, point.time, point.step) for point in points for name, value in point.metrics.items()
        ]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One point, now. Where the server already has a value of a name at this step, that name is left out."""
        self.send_missing([MetricPoint(step, int(time.time() * 1000), dict(metrics))])

    def last_step(self, name: str) -> int:
        """The greatest step at which a metric has been logged; 0 = it has not."""
        if name not in self.read().data.metrics:
            return 0
        return max(item.step for item in self.client.get_metric_history(self.run_id, name))

    def send_missing(self, points: Iterable[MetricPoint]) -> None:
        """Send what the server lacks of ``points``: nothing is ever logged twice, and points cannot be deleted."""
        points = list(points)
        wanted = {name for point in points for name in point.metrics}
        present = set(self.read().data.metrics)
        known = {
            (name, metric.step)
            for name in wanted & present
            for metric in self.client.get_metric_history(self.run_id, name)
        }
        self.log_points(
            MetricPoint(
                point.step,
                point.time,
                {name: value for name, value in point.metrics.items() if (name, point.step) not in known},
            )
            for point in points
        )

    def log_json(self, value: Any, path: str) -> None:
        self.client.log_text(self.run_id, json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)

    def log_bytes(self, content: bytes, path: str) -> None:
        """Write ``content`` as the artifact ``path``."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / Path(path).name
            local.write_bytes(content)
            self.client.log_artifact(self.run_id, str(local), str(Path(path).parent) if "/" in path else None)

    def log_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """``rows`` as ``path`` + ``.csv``, and as ``.json`` in the format that the UI shows as a table."""
        frame = pd.DataFrame(list(rows))
        self.client.log_text(self.run_id, frame.to_csv(index=False), f"{path}.csv")
        self.client.log_text(self.run_id, frame.to_json(orient="split", index=False), f"{path}.json")
        self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": f"{path}.json", "type": "table"}])})

    def artifact_names(self, folder: str) -> list[str]:
        """Paths of the artifacts directly in ``folder``; empty where there is no such folder."""
        return [item.path for item in self.client.list_artifacts(self.run_id, folder)]

    def read_json(self, path: str) -> Any:
        """The content of a JSON artifact. Raises UserError where the run has none."""
        with tempfile.TemporaryDirectory() as folder:
            return json.loads(self.fetch(path, Path(folder)).read_text("utf-8"))

    def fetch(self, path: str, folder: Path) -> Path:
        """Download one artifact into ``folder``. Raises UserError where the run has none."""
        try:
            return Path(self.client.download_artifacts(self.run_id, path, str(folder)))
        except (MlflowException, OSError) as error:
            raise UserError(f"run {self.run_id} has no artifact {path}") from error

    def describe(self, markdown: str) -> None:
        """The text at the top of the run's page."""
        self.set_tags({MLFLOW_RUN_NOTE: markdown[:5000]})

    def description(self) -> str:
        """The text at the top of the run's page; empty where it has none."""
        return self.read().data.tags.get(MLFLOW_RUN_NOTE, "")

    def terminate(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(self.run_id, status)

    def reopen(self) -> None:
        """Set the run RUNNING again, to continue it; why it had failed no longer holds."""
        self.client.update_run(self.run_id, status="RUNNING")
        if "mm.error" in self.read().data.tags:
            self.client.delete_tag(self.run_id, "mm.error")


def adopted_run_id() -> str | None:
    """Id of the run that ``mlflow run`` has made for this process, if any."""
    return os.environ.get("MLFLOW_RUN_ID")


def open_run(name: str, *, parent: TrackedRun | None = None, tags: Mapping[str, str] | None = None) -> TrackedRun:
    """Adopt the run ``mlflow run`` has made, or create one; with ``parent``, create a nested one.

    The experiment is the parent's, the project run's, or the one that ``MLFLOW_EXPERIMENT_NAME`` names, else Default. A new run
    has ``tags`` from its first moment.
    """
    client = MlflowClient()
    adopted = adopted_run_id()
    if parent is None and adopted is not None:
        client.update_run(adopted, name=name)
        return TrackedRun(client, adopted)
    known = resolve_tags({}) | dict(tags or {})  # user, source, git commit, as MLflow itself records them
    if parent is not None:
        known[MLFLOW_PARENT_RUN_ID] = parent.run_id
    experiment = parent.read().info.experiment_id if parent is not None else current_experiment(client)
    return TrackedRun(client, client.create_run(experiment, tags=known, run_name=name).info.run_id)


def existing_run(run_id: str, parameter: str) -> TrackedRun:
    """The run ``run_id`` that the user named in ``parameter``. Raises UserError where there is none."""
    client = MlflowClient()
    try:
        client.get_run(run_id)
    except MlflowException:
        raise UserError(
            f"{parameter}={run_id}: no such run in {mlflow.get_tracking_uri()}; check the id and MLFLOW_TRACKING_URI"
        ) from None
    return TrackedRun(client, run_id)


def current_experiment(client: MlflowClient) -> str:
    """Id of the experiment for new runs; created where its name is new."""
    if (known := _known_experiment(client)) is not None:
        return known
    try:
        return client.create_experiment(_experiment_name(), tags=EXPERIMENT_KIND)
    except MlflowException:  # another process was faster
        if (known := _known_experiment(client)) is None:
            raise
        return known


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")


def _known_experiment(client: MlflowClient) -> str | None:
    """Id of the experiment for new runs; None where it is not made yet."""
    if identity := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identity
    found = client.get_experiment_by_name(_experiment_name())
    return None if found is None else found.experiment_id


def children(run: TrackedRun) -> dict[str, TrackedRun]:
    """The nested runs of ``run``, by their stage tag; of several with one stage, the newest."""
    experiment = run.read().info.experiment_id
    found = run.client.search_runs(
        [experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.run_id}'", order_by=["attributes.start_time ASC"]
    )
    return {
        item.data.tags["mm.stage"]: TrackedRun(run.client, item.info.run_id)
        for item in found
        if "mm.stage" in item.data.tags
    }


def nested_runs(run: TrackedRun, tags: Mapping[str, str]) -> list[TrackedRun]:
    """The nested runs of ``run`` with these tags, in any status, oldest first."""
    clauses = [f"tags.`{name}` = '{value}'" for name, value in {MLFLOW_PARENT_RUN_ID: run.run_id, **tags}.items()]
    found: list[TrackedRun] = []
    token = None
    while True:
        page = run.client.search_runs(
            [run.read().info.experiment_id],
            " and ".join(clauses),
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += [TrackedRun(run.client, item.info.run_id) for item in page]
        token = page.token
        if not token:
            return found


def prepare_store() -> None:
    """Make store and experiment before several processes write to them: two that make a database at once both fail."""
    current_experiment(MlflowClient())


def find_warmup(fingerprint: str) -> TrackedRun | None:
    """The newest finished warm-up with this fingerprint: of the experiment at hand, else of any."""
    client = MlflowClient()
    own = _known_experiment(client)
    others = [item.experiment_id for item in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    for experiments in ([own] if own else [], others):
        if not experiments:  # MLflow would search in the default one
            continue
        found = client.search_runs(
            experiments,
            f"tags.`mm.fingerprint` = '{fingerprint}' and tags.`mm.stage` = 'warmup' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if found:
            return TrackedRun(client, found[0].info.run_id)
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
