"""Writes to a store as data: each can be kept on disk, and performing it twice has the effect of performing it once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.tracking import MlflowClient

CREATED_AS = "mm.created_as"
"""Tag: the id under which the process that created the run or model has known it."""
TEXTS = {".json", ".md", ".html", ".csv", ".txt", ".yaml", ".yml", ".tex", ".log", ""}
"""Suffixes of files in which ids are replaced; ``MLmodel`` has none."""

Ids = dict[str, str]
"""Id that this machine gave -> the server's."""


@dataclass(frozen=True)
class Operation:
    """One write.

    Attributes:
        kind: name of a function in ``PERFORMERS``.
        values: its arguments, as JSON can keep them; ids as this process knows them.
        file: file or folder that it uploads, relative to the spool's folder of files; empty = none.
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""


def perform(client: MlflowClient, operation: Operation, ids: Ids, files: Path) -> None:
    """Perform an operation on a server.

    Args:
        client: client of the server.
        operation: the operation.
        ids: ids that this machine gave; new ones are added.
        files: the spool's folder of files.
    """
    values = replaced(dict(operation.values), ids)
    if operation.file:
        values["file"] = files / operation.file
    PERFORMERS[operation.kind](client, values, ids)


def _create_run(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    created_as = values["created_as"]
    found = client.search_runs([values["experiment"]], f"tags.`{CREATED_AS}` = '{created_as}'", max_results=1)
    if found:  # the answer to an earlier attempt was lost
        ids[created_as] = found[0].info.run_id
        return
    tags = values["tags"] | {CREATED_AS: created_as}
    made = client.create_run(values["experiment"], values["start_time"], tags, values["name"])
    ids[created_as] = made.info.run_id


def _log_batch(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    client.log_batch(
        values["run"],
        metrics=[Metric(**item) for item in values["metrics"]],
        params=[Param(name, text) for name, text in values["params"].items()],
        tags=[RunTag(name, text) for name, text in values["tags"].items()],
    )


def _set_experiment_tag(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    client.set_experiment_tag(values["experiment"], values["name"], values["text"])


def _delete_tag(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    if values["name"] in client.get_run(values["run"]).data.tags:
        client.delete_tag(values["run"], values["name"])


def _log_input(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    tags = [InputTag(name, text) for name, text in values["tags"].items()]
    client.log_inputs(values["run"], datasets=[DatasetInput(Dataset(**values["dataset"]), tags)])


def _log_artifact(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = _with_real_ids(values["file"], ids, Path(folder))
        client.log_artifact(values["run"], str(file), values["folder"] or None)


def _update_run(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    client.update_run(values["run"], status=values["status"], name=values["name"])


def _end_run(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    client.set_terminated(values["run"], values["status"], values["end_time"])


def _log_model(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    """Log a model's folder as ``Model.log`` does, or go on with the one that was begun for it before."""
    run, created_as = client.get_run(values["run"]), values["created_as"]
    model = _begun_model(client, run, created_as)
    if model is None:
        model = client.create_logged_model(
            run.info.experiment_id,
            name=values["name"],
            source_run_id=values["run"],
            tags=values["tags"] | {CREATED_AS: created_as},
            params=run.data.params,
        )
    ids[created_as] = model.model_id
    if model.status == LoggedModelStatus.READY:
        return
    if model.model_id not in _outputs(run):
        client.log_outputs(values["run"], [LoggedModelOutput(model.model_id, step=values["step"])])
    client.log_batch(values["run"], metrics=_metrics_of_model(client, run, model.model_id, values["step"]))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model"
        shutil.copytree(values["file"], copy)
        for path in copy.rglob("*"):
            if path.is_file():
                _replace_ids(path, ids)
        client.log_model_artifacts(model.model_id, str(copy))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _begun_model(client: MlflowClient, run: Run, created_as: str) -> LoggedModel | None:
    """Return the model that was made for ``created_as``, finished or not; a run does not name one that was made a moment ago."""
    wanted = f"tags.`{CREATED_AS}` = '{created_as}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=wanted, max_results=1)
    return found[0] if found else None


def _outputs(run: Run) -> list[str]:
    return [] if run.outputs is None else [output.model_id for output in run.outputs.model_outputs]


def _metrics_of_model(client: MlflowClient, run: Run, model_id: str, step: int) -> list[Metric]:
    """Return the metrics of a run at ``step`` as metrics of a model, as ``Model.log`` adds them."""
    return [
        Metric(item.key, item.value, item.timestamp, item.step, model_id=model_id)
        for name in run.data.metrics
        for item in client.get_metric_history(run.info.run_id, name)
        if item.step == step and item.model_id is None
    ]


def _register_model(client: MlflowClient, values: dict[str, Any], ids: Ids) -> None:
    """Make a logged model a version in the registry, unless it is one."""
    name, model_id = values["name"], values["uri"].removeprefix("models:/")
    known = [item for item in client.search_model_versions(f"name = '{name}'") if item.model_id == model_id]
    version = known[0].version if known else mlflow.register_model(values["uri"], name).version
    client.update_model_version(name, version, values["description"])
    if values["alias"]:
        client.set_registered_model_alias(name, values["alias"], version)


PERFORMERS: dict[str, Callable[[MlflowClient, dict[str, Any], Ids], None]] = {
    "create_run": _create_run,
    "log_batch": _log_batch,
    "set_experiment_tag": _set_experiment_tag,
    "delete_tag": _delete_tag,
    "log_input": _log_input,
    "log_artifact": _log_artifact,
    "update_run": _update_run,
    "end_run": _end_run,
    "log_model": _log_model,
    "register_model": _register_model,
}
"""Kind of an operation -> what performs it."""


def metric_values(metric: Metric) -> dict[str, Any]:
    """Return the arguments of a metric, for an operation."""
    return {
        "key": metric.key,
        "value": metric.value,
        "timestamp": metric.timestamp,
        "step": metric.step,
        "model_id": metric.model_id,
        "dataset_name": metric.dataset_name,
        "dataset_digest": metric.dataset_digest,
    }


def input_values(item: DatasetInput) -> dict[str, Any]:
    """Return data set and tags of an input, for an operation."""
    return {"dataset": dict(item.dataset), "tags": {tag.key: tag.value for tag in item.tags}}


def as_json(operation: Operation) -> dict[str, Any]:
    """Return an operation as JSON can keep it."""
    return asdict(operation)


def replaced(value: Any, ids: Ids) -> Any:
    """Return ``value`` with the server's ids in all its texts, but for the id under which something is created."""
    if isinstance(value, str):
        for own, real in ids.items():
            value = value.replace(own, real)
        return value
    if isinstance(value, dict):
        return {name: item if name == "created_as" else replaced(item, ids) for name, item in value.items()}
    return [replaced(item, ids) for item in value] if isinstance(value, list) else value


def _with_real_ids(file: Path, ids: Ids, folder: Path) -> Path:
    """Return ``file``, or, if it is a text that names ids of this machine, a copy with the server's."""
    if not ids or file.suffix not in TEXTS:
        return file
    copy = folder / file.name
    shutil.copyfile(file, copy)
    return copy if _replace_ids(copy, ids) else file


def _replace_ids(file: Path, ids: Ids) -> bool:
    """Replace ids in a text file; return whether it has any."""
    if file.suffix not in TEXTS:
        return False
    before = after = file.read_bytes()
    for own, real in ids.items():
        after = after.replace(own.encode(), real.encode())
    if after == before:
        return False
    file.write_bytes(after)
    return True
