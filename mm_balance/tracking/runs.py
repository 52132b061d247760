"""One MLflow run, addressed by explicit id: without a global active run, nested and concurrent runs cannot be confused.

``mlflow run`` logs the raw text of all ``-P`` parameters before our process starts, and MLflow parameters are immutable, so
resolved values are logged as ``config/<name>``.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_LOGGED_IMAGES,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
)
from PIL import Image

from mm_balance import names
from mm_balance.config import format_value, options
from mm_balance.data import MultimodalData
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import UserError
from mm_balance.escaping import spreadsheet_cell
from mm_balance.redaction import redact
from mm_balance.tracking import presence
from mm_balance.tracking.outage.connection import is_conflict
from mm_balance.tracking.store import Client, new_client
from mm_balance.tracking.unwritable import writing

# MLflow's progress bars for a few small files would hide our own.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

METRICS_PER_BATCH = 1000
CONFLICT_ATTEMPTS = 6
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
IMAGE_FOLDER = "images"
PROCESS_TAG = "mm.process"
DESCRIPTION_LENGTH = 5000


@dataclass(frozen=True)
class ModelOnData:
    """What a metric is about, beside its run: a logged model, evaluated on a data set.

    Attributes:
        uri: ``models:/...``.
        data: the data set.
    """

    uri: str
    data: MultimodalData

    def fields(self) -> dict[str, str]:
        """Return the arguments of MLflow's ``Metric``."""
        return {
            "model_id": self.uri.removeprefix("models:/"),
            "dataset_name": self.data.name,
            "dataset_digest": dataset_digest(self.data),
        }


def dataset_digest(data: MultimodalData) -> str:
    """Return the digest under which MLflow knows a data set: it allows 36 characters."""
    return data.digest[:36]


def create_experiment(name: str) -> str:
    """Create an experiment and return its id. Raises MlflowException if the name is taken."""
    with writing(f"the new experiment {name}"):
        return new_client().create_experiment(name, tags=EXPERIMENT_KIND)


class TrackedRun:
    """One run, addressed by its id: the only object that writes to MLflow.

    Every write to a run ends in one of the ``_send_*`` methods, and nothing else in the project calls a writing method of MLflow.
    Behavior common to all writes, such as a spool that keeps them through an outage, belongs in these methods.

    Args:
        run_id: MLflow's id.
        client: client for reading and writing; by default one for MLflow's current tracking store.

    Attributes:
        run_id: MLflow's id.
    """

    def __init__(self, run_id: str, client: Client | None = None) -> None:
        self.run_id = run_id
        self._client = client or new_client()

    @classmethod
    def create(cls, experiment: str, name: str, tags: Mapping[str, str]) -> TrackedRun:
        """Create a run with ``tags`` in the experiment with this id."""
        client = new_client()
        own = {PROCESS_TAG: str(presence.this_process())}
        with writing("a new run"):
            run = cls(client.create_run(experiment, tags={**tags, **own}, run_name=name).info.run_id, client)
        presence.enter(run.run_id)
        return run

    def adopt(self, name: str) -> None:
        """Take over a run that was made for this process, under another name."""
        presence.enter(self.run_id)
        self.rename(name)
        self._sign()

    def read(self) -> Run:
        """Fetch the current state of the run."""
        return self._client.get_run(self.run_id)

    def is_nested(self) -> bool:
        """Whether the run is nested in another one."""
        return MLFLOW_PARENT_RUN_ID in self.read().data.tags

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, overwriting existing values; credentials in them are left out, as everywhere on a run."""
        self._send_batch(tags=[RunTag(name, redact(str(value))) for name, value in tags.items()])

    def experiment_tags(self) -> dict[str, str]:
        """Fetch the tags of the run's experiment."""
        return dict(self._client.get_experiment(self.read().info.experiment_id).tags)

    def set_experiment_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run's experiment, overwriting existing values."""
        if tags:
            self._send_experiment_tags(self.read().info.experiment_id, tags)

    def log_config(self, values: Mapping[str, Any]) -> None:
        """Log resolved parameters by name: as ``config.json``, and as ``config/<name>`` for the table of runs.

        MLflow parameters are immutable, so those that may change when a run is resumed (more epochs, another device) are logged as
        tags. A nested run omits values that its parent has already logged, and references to other runs, which its tags have: MLflow
        prints all parameters of a run above each of its images.
        """
        declared = options()
        tags = self.read().data.tags
        parent = tags.get(MLFLOW_PARENT_RUN_ID)
        inherited = self._config_of(parent)
        texts = {
            f"{names.CONFIG_PREFIX}{name}": format_value(value)
            for name, value in values.items()
            if parent is None or name != "warmup_run"
        }
        fresh = {name: text for name, text in texts.items() if inherited.get(name) != text or name in tags}
        changing = {
            name
            for name in fresh
            if (item := declared[name.removeprefix(names.CONFIG_PREFIX)]).may_grow or item.machine
        }
        self.log_params({name: text for name, text in fresh.items() if name not in changing})
        self.set_tags({name: fresh[name] for name in sorted(changing)})
        self.log_json(dict(values), names.CONFIG_FILE)

    def saved_config(self) -> dict[str, Any]:
        """Return the parameters that the run was started with, from ``config.json``.

        Raises:
            UserError: the run does not have the file, or it has been changed: MLflow's parameters, which nobody can change, differ.
        """
        saved, declared = self.read_json(names.CONFIG_FILE), options()
        if not isinstance(saved, dict):
            raise UserError(
                f"{names.CONFIG_FILE} of run {self.run_id} is no mapping: it has been changed since it was logged"
            )
        for name, text in self.read().data.params.items():
            parameter = name.removeprefix(names.CONFIG_PREFIX)
            if parameter == name or parameter not in declared or parameter not in saved:
                continue
            if not _same_value(format_value(saved[parameter]), text):
                raise UserError(
                    f"{names.CONFIG_FILE} of run {self.run_id} says {parameter}={format_value(saved[parameter])}, but the run was "
                    f"started with {text} (its parameter {name}): the file has been changed since; correct it"
                )
        return saved

    def _config_of(self, run_id: str | None) -> dict[str, str]:
        """Return the configuration logged on a run; empty if there is no run."""
        if run_id is None:
            return {}
        data = self._client.get_run(run_id).data
        return {
            name: text for name, text in {**data.params, **data.tags}.items() if name.startswith(names.CONFIG_PREFIX)
        }

    def log_params(self, values: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet; existing ones are kept, and those already on its parent are omitted."""
        data = self.read().data
        parent = data.tags.get(MLFLOW_PARENT_RUN_ID)
        inherited = {} if parent is None else self._client.get_run(parent).data.params
        parameters = [
            Param(name, redact(value))
            for name, value in values.items()
            if name not in data.params and inherited.get(name) != value
        ]
        if parameters:
            self._send_batch(params=parameters)

    def log_dataset(self, data: MultimodalData, context: str) -> None:
        """Log the data set as an MLflow input (shown in the table of runs), and ``data.json``."""
        dataset = Dataset(
            name=data.name,
            digest=dataset_digest(data),
            source_type="code" if data.name == "digits" else "local",
            source=json.dumps({"description": data.source, "recipe": data.recipe}),
            profile=json.dumps(data.counts),
        )
        self._send_input(DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", context)]))
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
                "warnings": list(data.warnings),
                "inputs": {name: asdict(spec) for name, spec in data.specs.items()},
            },
            names.DATA_FILE,
        )

    def log_points(self, points: Iterable[MetricPoint], about: ModelOnData | None = None) -> None:
        """Send points, up to a thousand values per call; with ``about`` they are shown on the model's page, too.

        MLflow ignores points that the run has already, with the same time, so those may be sent again for a model.
        """
        link = {} if about is None else about.fields()
        metrics = [
            Metric(name, value, point.time, point.step, **link)
            for point in points
            for name, value in point.metrics.items()
        ]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self._send_batch(metrics=metrics[start : start + METRICS_PER_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int, about: ModelOnData | None = None) -> None:
        """Log one point, now. Metrics that the server already has at this step are skipped.

        A nested run has ``names.SUMMARY_METRICS`` in a table instead, with their newest values.
        """
        single = {name: value for name, value in metrics.items() if name in names.SUMMARY_METRICS}
        if single and self.is_nested():
            self._write_table(_summary_rows(self.summary() | single), names.SUMMARY_TABLE)
            metrics = {name: value for name, value in metrics.items() if name not in single}
        if metrics:
            self.send_missing([MetricPoint(step, int(time.time() * 1000), dict(metrics))], about)

    def summary(self) -> dict[str, float]:
        """Return the single numbers in a nested run's table, by the names of the metrics; empty if it has no such table."""
        path = f"{names.SUMMARY_TABLE}.json"
        if path not in self.artifact_names(""):
            return {}
        table = self.read_json(path)
        name, value = (table["columns"].index(column) for column in ("name", "value"))
        return {row[name]: row[value] for row in table["data"]}

    def last_step(self, name: str) -> int:
        """Return the largest step at which a metric has been logged; 0 = never."""
        if name not in self.read().data.metrics:
            return 0
        return max(step for step, _ in self.metric_series(name))

    def metric_series(self, name: str) -> list[tuple[int, float]]:
        """Return a metric's points as (step, value), ordered by step."""
        return sorted((item.step, item.value) for item in self._client.get_metric_history(self.run_id, name))

    def send_missing(self, points: Iterable[MetricPoint], about: ModelOnData | None = None) -> None:
        """Send those ``points`` that the server lacks: points cannot be deleted, so nothing may be logged twice."""
        points = list(points)
        requested = {name for point in points for name in point.metrics}
        present = set(self.read().data.metrics)
        known = {(name, step) for name in requested & present for step, _ in self.metric_series(name)}
        missing = [
            MetricPoint(
                point.step,
                point.time,
                {name: value for name, value in point.metrics.items() if (name, point.step) not in known},
            )
            for point in points
        ]
        self.log_points(missing, about)

    def log_json(self, value: Any, path: str) -> None:
        """Write ``value`` as the artifact ``path``, without credentials."""
        self.log_plain_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path)

    def log_plain_text(self, text: str, path: str) -> None:
        """Write ``text`` as the artifact ``path``, without credentials."""
        self.log_bytes(redact(text).encode(), path)

    def log_bytes(self, content: bytes, path: str) -> None:
        """Write ``content`` as the artifact ``path``."""
        folder, _, file = path.rpartition("/")
        with self._writing(f"artifact {path}"), tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / file
            local.write_bytes(content)
            self._send_file(local, folder)

    def log_file(self, local: Path, folder: str) -> None:
        """Upload a file into an artifact folder, under its own name."""
        self._send_file(local, folder)

    def copy_artifacts(self, other: TrackedRun) -> None:
        """Take over the artifacts of another run that this one lacks, pictures with a slider of steps among them."""
        with tempfile.TemporaryDirectory() as temporary:
            for folder, paths in other.artifact_tree().items():
                known = set(self.artifact_names(folder))
                for path in (path for path in paths if path not in known):
                    self.log_file(other.fetch(path, Path(temporary)), folder)
        shown = other.read().data.tags
        self.set_tags({name: shown[name] for name in (MLFLOW_LOGGED_IMAGES, MLFLOW_LOGGED_ARTIFACTS) if name in shown})

    def artifact_tree(self) -> dict[str, list[str]]:
        """Return the paths of all files among the artifacts, by folder."""
        tree, waiting = dict[str, list[str]](), [""]
        while waiting:
            folder = waiting.pop()
            items = self._client.list_artifacts(self.run_id, folder)
            tree[folder] = [item.path for item in items if not item.is_dir]
            waiting += [item.path for item in items if item.is_dir]
        return tree

    def log_figure(self, files: Mapping[str, bytes], path: str) -> None:
        """Write a figure rendered in several formats, suffix -> content, as ``path``, whose own suffix is replaced."""
        for suffix, content in files.items():
            self.log_bytes(content, f"{path.rpartition('.')[0]}{suffix}")

    def log_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """Log ``rows`` as ``path`` + ``.csv``, for spreadsheets, and as ``.json`` in the format that the UI shows as a table."""
        self._write_table(rows, path)

    def _write_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        frame = pd.DataFrame(list(rows))
        cells = frame.map(spreadsheet_cell).rename(columns=spreadsheet_cell)
        self.log_bytes(cells.to_csv(index=False).encode(), f"{path}.csv")
        self.log_bytes(frame.to_json(orient="split", index=False, double_precision=15).encode(), f"{path}.json")
        shown = json.loads(self.read().data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        table = {"path": f"{path}.json", "type": "table"}
        if table not in shown:
            self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([*shown, table])})

    def log_step_image(self, picture: bytes, key: str, step: int) -> None:
        """Show ``picture`` (the bytes of a PNG file) on the run's page, under ``key`` and with a slider of steps."""
        with Image.open(io.BytesIO(picture)) as image:
            self._send_image(np.asarray(image.convert("RGB")), key, step)

    def step_images(self, key: str, step: int) -> list[tuple[str, str]]:
        """Return the artifacts of the image ``key`` at ``step``: for each time it was logged, the PNG and its compressed WebP copy.

        The names are MLflow's. MLflow tags the run last, and without the tag the run's page shows no image, so none is returned.
        """
        if MLFLOW_LOGGED_IMAGES not in self.read().data.tags:
            return []
        paths = set(self.artifact_names(IMAGE_FOLDER))
        prefix = f"{IMAGE_FOLDER}/{key.replace('/', '~')}+step+{step}+timestamp+"
        pictures = [path for path in sorted(paths) if path.startswith(prefix) and path.endswith(".png")]
        pairs = [(path, f"{path.removesuffix('.png')}+compressed.webp") for path in pictures]
        return [(picture, small) for picture, small in pairs if small in paths]

    def log_model_folder(
        self,
        flavor: Any,
        name: str,
        step: int,
        *,
        description: str = "",
        register_as: str | None = None,
        **content: Any,
    ) -> str:
        """Log an MLflow model, whose page takes over the run's parameters.

        Args:
            flavor: its ``save_model(path, mlflow_model, **content)`` writes the model's folder.
            name: name of the model on the run.
            step: epoch of the model.
            description: Markdown at the top of the model's page.
            register_as: name in the registry, where it becomes a new version; None = it is not registered.
            **content: arguments of ``flavor``.

        Returns:
            The model's URI, ``models:/...``.
        """
        uri = self._send_model(flavor, name, step, description, content)
        if register_as is not None:
            self.register_model(uri, register_as, description)
        return uri

    def register_model(self, uri: str, name: str, description: str, *, alias: str = "") -> str:
        """Make a logged model a new version of ``name`` in the registry, and return the version.

        Args:
            uri: ``models:/...`` of the logged model.
            name: name in the registry; created if it is new.
            description: Markdown at the top of the version's page.
            alias: alias that this version gets, and any other one loses; empty = none.

        Raises:
            UserError: the store has no registry, or refuses the name.
        """
        try:
            version = self._send_model_version(uri, name, description, alias)
        except MlflowException as error:
            raise UserError(f"register_as={name}: {str(error).splitlines()[0]}; the model is logged: {uri}") from error
        print(f"registered: models:/{name}/{version}{f' ({alias})' if alias else ''}")
        return version

    def latest_model(self) -> tuple[str, int] | None:
        """Return URI and step of the model that the run logged last; None if it has none."""
        outputs = self.read().outputs
        models = outputs.model_outputs if outputs is not None else []
        if not models:
            return None
        if len(models) == 1:
            return f"models:/{models[0].model_id}", models[0].step
        # Not by step: the best epoch of a resumed run may have moved to an earlier step.
        latest = max(models, key=lambda item: self._client.get_logged_model(item.model_id).creation_timestamp)
        return f"models:/{latest.model_id}", latest.step

    def model_place(self, uri: str) -> str:
        """Return where to load a logged model from: a folder on this machine if this process logged it to a server, else ``uri``."""
        return self._client.model_place(uri)

    def artifact_names(self, folder: str) -> list[str]:
        """Return the paths of the artifacts directly in ``folder``; empty if there is no such folder."""
        return [item.path for item in self._client.list_artifacts(self.run_id, folder)]

    def read_json(self, path: str) -> Any:
        """Read a JSON artifact. Raises UserError if the run does not have it, or if it is damaged."""
        with tempfile.TemporaryDirectory() as folder:
            content = self.fetch(path, Path(folder)).read_bytes()
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} of run {self.run_id} is damaged ({str(error)[:80]})") from error

    def fetch(self, path: str, folder: Path) -> Path:
        """Download one artifact into ``folder``. Raises UserError if the run does not have it."""
        try:
            return Path(self._client.download_artifacts(self.run_id, path, str(folder)))
        except (MlflowException, OSError) as error:
            raise UserError(f"run {self.run_id} has no artifact {path}") from error

    def describe(self, markdown: str) -> None:
        """Set the description at the top of the run's page."""
        self.set_tags({MLFLOW_RUN_NOTE: redact(markdown)[:DESCRIPTION_LENGTH]})  # cut after a password, not in it

    def description(self) -> str:
        """Return the description at the top of the run's page; empty if there is none."""
        return self.read().data.tags.get(MLFLOW_RUN_NOTE, "")

    def rename(self, name: str) -> None:
        """Rename the run."""
        self._send_info(name=name)

    def terminate(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._send_end(status)
        presence.leave(self.run_id)

    def reopen(self) -> None:
        """Set the run RUNNING again to resume it, and remove the reason of an earlier failure."""
        presence.enter(self.run_id)
        self._send_info(status="RUNNING")
        self._sign()
        if "mm.error" in self.read().data.tags:
            self._send_tag_removal("mm.error")

    def _sign(self) -> None:
        """Say on the run which process works on it, for those on other machines."""
        self.set_tags({PROCESS_TAG: str(presence.this_process())})

    def _send_batch(
        self, *, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        with self._writing():
            _retry_conflicts(lambda: self._client.log_batch(self.run_id, metrics=metrics, params=params, tags=tags))

    def _send_experiment_tags(self, experiment: str, tags: Mapping[str, str]) -> None:
        with writing(f"tags of experiment {experiment}"):
            for name, text in tags.items():
                _retry_conflicts(partial(self._client.set_experiment_tag, experiment, name, text))

    def _send_tag_removal(self, name: str) -> None:
        with self._writing():
            self._client.delete_tag(self.run_id, name)

    def _send_input(self, item: DatasetInput) -> None:
        with self._writing():
            _retry_conflicts(lambda: self._client.log_inputs(self.run_id, datasets=[item]))

    def _send_file(self, local: Path, folder: str) -> None:
        """Upload to the artifact folder ``folder``; ``""`` = the root."""
        with self._writing(f"artifact {folder and f'{folder}/'}{local.name}"):
            self._client.log_artifact(self.run_id, str(local), folder or None)

    def _send_image(self, picture: np.ndarray, key: str, step: int) -> None:
        """Log ``picture``, ``(height, width, 3)`` uint8."""
        with self._writing(f"image {key}"):
            self._client.log_image(self.run_id, picture, key=key, step=step, synchronous=True)

    def _send_model(self, flavor: Any, name: str, step: int, description: str, content: Mapping[str, Any]) -> str:
        # The page of a model has its description there, too.
        tags = {MLFLOW_RUN_NOTE: redact(description)[:DESCRIPTION_LENGTH]}
        with self._writing("model"):
            return self._client.log_model(self.run_id, flavor, name, step, tags, content)

    def _send_model_version(self, uri: str, name: str, description: str, alias: str) -> str:
        with self._writing("registered model"):
            return self._client.register_model(uri, name, redact(description)[:DESCRIPTION_LENGTH], alias)

    def _send_info(self, *, status: str | None = None, name: str | None = None) -> None:
        with self._writing():
            self._client.update_run(self.run_id, status=status, name=name)

    def _send_end(self, status: str) -> None:
        """Unlike ``_send_info``, also set the end time."""
        with self._writing():
            self._client.set_terminated(self.run_id, status)

    def _writing(self, what: str = "what is logged") -> AbstractContextManager[None]:
        return writing(f"run {self.run_id}: {what}")


def _retry_conflicts(send: Callable[[], object]) -> None:
    """Call ``send``, again if another process has just added the same row.

    MLflow looks up a tag, parameter or data set before it adds it: of two processes that add the same one at once, one fails.
    """
    for attempt in range(CONFLICT_ATTEMPTS):
        try:
            send()
            return
        except MlflowException as error:
            if attempt == CONFLICT_ATTEMPTS - 1 or not is_conflict(error):
                raise
            time.sleep(0.1 * 2**attempt)


def _same_value(saved: str, logged: str) -> bool:
    """Whether two texts of a value are the same: earlier versions logged fewer digits, and credentials are left out."""
    if saved == logged or redact(saved) == logged:
        return True
    try:
        return math.isclose(float(saved), float(logged), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False


def _summary_rows(values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the table of single numbers, in the order of their declaration."""
    return [
        {"name": name, "value": values[name], "meaning": meaning}
        for name, meaning in names.SUMMARY_METRICS.items()
        if name in values
    ]
