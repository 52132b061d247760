"""What this process knows of its runs, to answer reads while the server is away."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import (
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunOutputs,
    RunTag,
)
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mm_balance.tracking.outage.connection import Away
from mm_balance.tracking.outage.operations import Operation

_NESTED = re.compile(rf"tags\.`{re.escape(MLFLOW_PARENT_RUN_ID)}` = '([^']*)'")


@dataclass
class KnownRun:
    """A run as this process has last seen it, and has changed it since.

    Attributes:
        info: id, experiment, name, status and times.
        params: its parameters.
        tags: its tags.
        points: name of a metric -> its points, as far as known.
        histories: metrics whose points are all known.
        folders: artifact folder -> paths directly in it, as far as known.
        listed: folders whose paths are all known.
        files: artifact -> where a copy is on this machine.
        models: models that it logged.
        ours: whether this process created the run, so that all of it is known.
    """

    info: dict[str, Any]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: dict[str, list[Metric]] = field(default_factory=dict)
    histories: set[str] = field(default_factory=set)
    folders: dict[str, set[str]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    files: dict[str, Path] = field(default_factory=dict)
    models: list[LoggedModelOutput] = field(default_factory=list)
    ours: bool = False

    def entity(self) -> Run:
        """Return the run as MLflow would."""
        newest = [max(points, key=lambda item: (item.step, item.timestamp)) for points in self.points.values()]
        return Run(
            RunInfo(**self.info),
            RunData(
                newest,
                [Param(name, text) for name, text in self.params.items()],
                [RunTag(name, text) for name, text in self.tags.items()],
            ),
            run_outputs=RunOutputs(list(self.models)),
        )


class Memory:
    """The runs and experiments that this process has seen or changed."""

    def __init__(self) -> None:
        self.runs: dict[str, KnownRun] = {}
        self.experiments: dict[str, Any] = {}
        self._families: set[str] = set()
        """Runs whose nested runs are all known."""

    def see(self, run: Run) -> None:
        """Note the state of a run as the server has given it."""
        known = self.runs.setdefault(run.info.run_id, KnownRun({}))
        known.info = {name: getattr(run.info, name) for name in _INFO}
        known.params, known.tags = dict(run.data.params), dict(run.data.tags)
        for metric in run.data._metric_objs or ():
            points = known.points.setdefault(metric.key, [])
            if (metric.step, metric.timestamp) not in {(item.step, item.timestamp) for item in points}:
                points.append(metric)
        known.models = list(run.outputs.model_outputs) if run.outputs is not None else []

    def see_history(self, run_id: str, name: str, points: Iterable[Metric]) -> None:
        """Note all points of a metric."""
        known = self.runs.setdefault(run_id, KnownRun({}))
        known.points[name] = list(points)
        known.histories.add(name)

    def see_folder(self, run_id: str, folder: str, paths: Iterable[str]) -> None:
        """Note all artifacts in a folder."""
        known = self.runs.setdefault(run_id, KnownRun({}))
        known.folders[folder] = set(paths)
        known.listed.add(folder)

    def see_experiment(self, experiment: Any) -> None:
        """Note an experiment."""
        self.experiments[experiment.experiment_id] = experiment

    def change(self, operation: Operation, files: Path) -> None:
        """Note what an operation changes, whether it is delivered or not."""
        values = operation.values
        if operation.kind == "create_run":
            self.runs[values["created_as"]] = _new_run(values)
            self._families.add(values["created_as"])
            return
        if operation.kind == "set_experiment_tag":
            if values["experiment"] in self.experiments:
                self.experiments[values["experiment"]].tags[values["name"]] = values["text"]
            return
        if "run" not in values:
            return
        known = self.runs.setdefault(values["run"], KnownRun({}))
        match operation.kind:
            case "log_batch":
                known.params |= values["params"]
                known.tags |= values["tags"]
                for item in values["metrics"]:
                    # Of a metric that the run did not have when it was read, all points will be ours.
                    if known.info and item["key"] not in known.points:
                        known.histories.add(item["key"])
                    known.points.setdefault(item["key"], []).append(Metric(**item))
            case "delete_tag":
                known.tags.pop(values["name"], None)
            case "log_artifact":
                path = f"{values['folder']}/{values['name']}".lstrip("/")
                known.files[path] = files / operation.file
                while path:
                    folder, _, _ = path.rpartition("/")
                    known.folders.setdefault(folder, set()).add(path)
                    path = folder
            case "update_run":
                known.info |= {"status": values["status"]} if values["status"] else {}
                if values["name"]:
                    known.info["run_name"] = known.tags["mlflow.runName"] = values["name"]
            case "end_run":
                known.info |= {"status": values["status"], "end_time": values["end_time"]}
            case "log_model":
                known.models.append(LoggedModelOutput(values["created_as"], values["step"]))

    def rename(self, own: str, real: str) -> None:
        """Note that a run that this process created has got its real id."""
        if own not in self.runs:
            return
        self.runs[real] = self.runs.pop(own)
        self.runs[real].info["run_id"] = real
        self._families.add(real)
        for known in self.runs.values():
            if known.tags.get(MLFLOW_PARENT_RUN_ID) == own:
                known.tags[MLFLOW_PARENT_RUN_ID] = real

    def run(self, run_id: str) -> Run:
        """Return a run. Raises Away if it has never been read."""
        known = self.runs.get(run_id)
        if known is None or not known.info:
            raise Away(f"run {run_id} has not been read yet")
        return copy.deepcopy(known).entity()

    def history(self, run_id: str, name: str) -> list[Metric]:
        """Return all points of a metric. Raises Away if not all are known."""
        known = self.runs.get(run_id)
        if known is None or not (known.ours or name in known.histories or (known.info and name not in known.points)):
            raise Away(f"not all points of {name} of run {run_id} are known")
        return list(known.points.get(name, []))

    def is_folder(self, run_id: str, path: str) -> bool:
        """Whether something is known in an artifact folder."""
        known = self.runs.get(run_id)
        return known is not None and path in known.folders

    def folder(self, run_id: str, folder: str) -> list[str]:
        """Return the paths in an artifact folder. Raises Away if not all are known."""
        known = self.runs.get(run_id)
        if known is None or not (known.ours or folder in known.listed):
            raise Away(f"not all artifacts of run {run_id} are known")
        return sorted(known.folders.get(folder, ()))

    def file(self, run_id: str, path: str) -> Path:
        """Return a copy of an artifact on this machine. Raises Away if there is none."""
        known = self.runs.get(run_id)
        if known is None or not (place := known.files.get(path)) or not place.is_file():
            raise Away(f"the artifact {path} of run {run_id} is not on this machine")
        return place

    def see_nested(self, clauses: str) -> None:
        """Note that the server has just given all runs that match ``clauses``."""
        if parent := _nested_in(clauses):
            self._families.add(parent)

    def search(self, clauses: str) -> list[Run]:
        """Return the runs that match clauses as ``lookup`` writes them, newest first.

        Raises:
            Away: other processes may have such runs: what is known here are the runs nested in one that this process has created,
                or whose nested runs it has read.
        """
        parent = _nested_in(clauses)
        if parent not in self._families:
            raise Away("other processes may have such runs")
        found = [
            item.entity() for item in self.runs.values() if item.info and item.tags.get(MLFLOW_PARENT_RUN_ID) == parent
        ]
        return sorted(found, key=lambda run: run.info.start_time, reverse=True)


def _nested_in(clauses: str) -> str:
    """Return the run whose nested runs are all that ``clauses`` match; empty = they match others, or not all of them."""
    match = _NESTED.fullmatch(clauses)
    return match.group(1) if match else ""


_INFO = (
    "run_id", "experiment_id", "user_id", "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri", "run_name",
)  # fmt: skip


def _new_run(values: Mapping[str, Any]) -> KnownRun:
    info = {
        "run_id": values["created_as"],
        "experiment_id": values["experiment"],
        "user_id": "",
        "status": "RUNNING",
        "start_time": values["start_time"] or int(time.time() * 1000),
        "end_time": None,
        "lifecycle_stage": "active",
        "artifact_uri": None,
        "run_name": values["name"],
    }
    return KnownRun(info, tags={**values["tags"], "mlflow.runName": values["name"]}, ours=True)
