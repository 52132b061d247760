"""A client like MLflow's for a tracking server that may go away and come back."""

from __future__ import annotations

import atexit
import io
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mlflow.entities import DatasetInput, Experiment, FileInfo, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.multimedia import compress_image_size, convert_to_pil_image
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from tqdm import tqdm

from mm_balance import stopping
from mm_balance.errors import Interrupted, UserError, reason
from mm_balance.redaction import redact
from mm_balance.tracking.outage import connection
from mm_balance.tracking.outage.connection import (
    Away,
    Closed,
    Requests,
    is_conflict,
    limit_requests,
    means_away,
    why_closed,
)
from mm_balance.tracking.outage.memory import Memory
from mm_balance.tracking.outage.operations import Ids, Operation, input_values, metric_values, perform, replaced
from mm_balance.tracking.outage.spool import Spool, add_ids, has_spools, left_spools, read_ids

T = TypeVar("T")

PROBE_EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
"""How long a step that needs the server waits for it."""
LEARN_SECONDS = 30.0
"""How long a run that is not on the server is waited for if a process on this machine has still to deliver."""
FINISH_SECONDS = 5.0
"""How long a command that has ended waits until everything is delivered."""
CONFLICT_ATTEMPTS = 5
_MISSING = "RESOURCE_DOES_NOT_EXIST"
SYNC = "mlflow run . --env-manager local -e sync"


class ServerClient:
    """Writes at once while the server answers, else to disk; reads from the server, else from memory.

    Every write is an ``Operation`` that may be performed twice, so a request whose answer is lost is simply repeated. Once the server
    is away, all writes go to the spool, in order; a thread looks every few seconds whether it is back, and delivers them. Reads that
    memory cannot answer wait for the server.

    Args:
        uri: address of the server, ``http...``.

    Attributes:
        delivered_first: number of entries of earlier processes that were delivered as this client was made.

    Raises:
        UserError: the server does not answer within 5 seconds.
    """

    def __init__(self, uri: str) -> None:
        limit_requests()
        self.uri = uri
        self.shown = redact(uri)
        self._client = MlflowClient(uri)
        self._requests = Requests()
        self._memory = Memory()
        self._models: dict[str, Path] = {}
        self._ids: Ids = {}
        self._lock = threading.RLock()
        self._spool: Spool | None = None
        self._away = False
        self._back = threading.Event()
        self._probe()
        self._ids |= read_ids(uri)
        try:
            self.delivered_first = deliver_left(uri, self._client, self._ids)
        except Exception as error:
            if not means_away(error) and not why_closed(error):
                raise
            raise UserError(
                f"the tracking server {self.shown} stopped answering while it was given what was pending ({reason(error)}); the rest "
                "is kept, try again"
            ) from error

    # Writing ---------------------------------------------------------------------------------------------------------------------

    def create_experiment(self, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Create an experiment and return its id. Raises MlflowException if the name is taken."""
        return self._read(partial(self._client.create_experiment, name, tags=dict(tags or {})))

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
    ) -> Run:
        """Create a run; while the server is away, it gets an id of this machine."""
        own = uuid.uuid4().hex
        values = {
            "created_as": own,
            "experiment": experiment_id,
            "start_time": start_time or _now(),
            "tags": replaced(dict(tags or {}), self._ids),
            "name": run_name,
        }
        self._write(Operation("create_run", values))
        return self._memory.run(self._settled(own))

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """Log metrics, parameters and tags."""
        values = {
            "run": self._real(run_id),
            "metrics": [metric_values(item) for item in metrics],
            "params": {item.key: item.value for item in params},
            "tags": {item.key: item.value for item in tags},
        }
        self._write(Operation("log_batch", values))

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        """Set a tag of an experiment."""
        self._write(Operation("set_experiment_tag", {"experiment": experiment_id, "name": key, "text": value}))

    def delete_tag(self, run_id: str, key: str) -> None:
        """Remove a tag of a run, if it has it."""
        self._write(Operation("delete_tag", {"run": self._real(run_id), "name": key}))

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        """Log data sets as inputs of a run."""
        for item in datasets:
            self._write(Operation("log_input", {"run": self._real(run_id), **input_values(item)}))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Upload a file. It is kept on this machine until the command ends, for reads while the server is away."""
        run, folder, local = self._real(run_id), artifact_path or "", Path(local_path)
        kept = self._files().keep(local, run, folder)
        self._write(Operation("log_artifact", {"run": run, "folder": folder, "name": local.name}, kept))

    def log_image(self, run_id: str, image: np.ndarray, *, key: str, step: int, synchronous: bool = True) -> None:
        """Show an image, ``(height, width, 3)`` uint8, on the run's page: as MLflow does, but its names are made here, once."""
        name = f"{key.replace('/', '~')}+step+{step}+timestamp+{_now()}+{uuid.uuid4()}"
        picture = convert_to_pil_image(image)
        with tempfile.TemporaryDirectory() as folder:
            for content, suffix in ((picture, ".png"), (compress_image_size(picture), "+compressed.webp")):
                path = Path(folder) / f"{name}{suffix}"
                buffer = io.BytesIO()
                content.save(buffer, format="PNG" if suffix == ".png" else "WEBP")
                path.write_bytes(buffer.getvalue())
                self.log_artifact(run_id, str(path), "images")
        self.log_batch(run_id, tags=[RunTag(MLFLOW_LOGGED_IMAGES, "True")])

    def log_model(
        self, run_id: str, flavor: Any, name: str, step: int, tags: Mapping[str, str], content: Mapping[str, Any]
    ) -> str:
        """Log an MLflow model as ``Model.log`` does, and return its URI."""
        run, own = self._real(run_id), f"m-{uuid.uuid4().hex}"
        folder = self._files().files / run / own
        flavor.save_model(
            path=str(folder),
            mlflow_model=Model(artifact_path=own, model_uuid=own, run_id=run, model_id=own),
            **content,
        )
        for left in folder.rglob("__pycache__"):
            shutil.rmtree(left, ignore_errors=True)
        values = {"created_as": own, "run": run, "name": name, "step": step, "tags": resolve_tags(dict(tags))}
        self._write(Operation("log_model", values, folder.relative_to(self._files().files).as_posix()))
        model_id = self._settled(own)
        self._models[model_id] = folder
        return f"models:/{model_id}"

    def model_place(self, uri: str) -> str:
        """Return where to load a logged model from: its folder on this machine if this process has logged it, else its URI."""
        folder = self._models.get(uri.removeprefix("models:/"))
        return uri if folder is None else str(folder)

    def register_model(self, uri: str, name: str, description: str, alias: str) -> str:
        """Make a logged model a version in the registry; return the version, or ``pending`` while the server is away."""
        values = {"uri": uri, "name": name, "description": description, "alias": alias}
        self._write(Operation("register_model", values))
        if self._away:
            return "pending"
        model_id = self._real(uri.removeprefix("models:/"))
        found = self._read(partial(self._client.search_model_versions, f"name = '{name}'"))
        return str(max(int(item.version) for item in found if item.model_id == model_id))

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        """Change status or name of a run."""
        self._write(Operation("update_run", {"run": self._real(run_id), "status": status, "name": name}))

    def set_terminated(self, run_id: str, status: str) -> None:
        """End a run, now."""
        self._write(Operation("end_run", {"run": self._real(run_id), "status": status, "end_time": _now()}))

    # Reading ---------------------------------------------------------------------------------------------------------------------

    def get_run(self, run_id: str) -> Run:
        """Return a run."""
        known_as = run_id
        run_id = self._real(run_id)
        try:
            run = self._read(partial(self._client.get_run, run_id), partial(self._memory.run, run_id))
        except MlflowException as error:
            if error.error_code != _MISSING or not self._learn(known_as):
                raise
            return self.get_run(known_as)
        if not self._away:
            self._memory.see(run)
        return run

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        """Return all points of a metric."""
        run_id = self._real(run_id)
        ask = partial(self._client.get_metric_history, run_id, key)
        points = list(self._read(ask, partial(self._memory.history, run_id, key)))
        if not self._away:
            self._memory.see_history(run_id, key, points)
        return points

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[FileInfo]:
        """Return the artifacts directly in a folder."""
        run_id, folder = self._real(run_id), path or ""

        def remembered() -> list[FileInfo]:
            known = self._memory
            return [FileInfo(item, known.is_folder(run_id, item), None) for item in known.folder(run_id, folder)]

        found = self._read(partial(self._client.list_artifacts, run_id, folder), remembered)
        if not self._away:
            self._memory.see_folder(run_id, folder, [item.path for item in found])
        return list(found)

    def download_artifacts(self, run_id: str, path: str, dst_path: str) -> str:
        """Download an artifact into a folder, and return where it is."""
        run_id = self._real(run_id)

        def remembered() -> str:
            place = Path(dst_path) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._memory.file(run_id, path), place)
            return str(place)

        return self._read(partial(self._client.download_artifacts, run_id, path, dst_path), remembered)

    def search_runs(self, experiment_ids: list[str], filter_string: str = "", **more: Any) -> Any:
        """Return a page of runs; while the server is away, the runs nested in one of this process."""
        wanted = replaced(filter_string, self._ids)

        def ask() -> Any:
            # What a process that this one has started could not deliver would be missing.
            deliver_left(self.uri, self._client, self._ids)
            return self._client.search_runs(experiment_ids, wanted, **more)

        def remembered() -> Any:
            found = self._memory.search(wanted)
            return _Page(reversed(found) if "ASC" in str(more.get("order_by")) else found)

        found = self._read(ask, remembered)
        if not self._away:
            for run in found:
                self._memory.see(run)
            if not found.token and not more.get("page_token"):
                self._memory.see_nested(wanted)
        return found

    def get_experiment(self, experiment_id: str) -> Experiment:
        """Return an experiment."""

        def remembered() -> Experiment:
            if experiment_id not in self._memory.experiments:
                raise Away(f"experiment {experiment_id} has not been read yet")
            return self._memory.experiments[experiment_id]

        experiment = self._read(partial(self._client.get_experiment, experiment_id), remembered)
        self._memory.see_experiment(experiment)
        return experiment

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """Return the experiment of this name; None if there is none."""

        def remembered() -> Experiment:
            for experiment in self._memory.experiments.values():
                if experiment.name == name:
                    return experiment
            raise Away(f"experiment {name} has not been read yet")

        experiment = self._read(partial(self._client.get_experiment_by_name, name), remembered)
        if experiment is not None:
            self._memory.see_experiment(experiment)
        return experiment

    def search_experiments(self, **more: Any) -> Any:
        """Return a page of experiments."""
        return self._read(
            partial(self._client.search_experiments, **more), lambda: list(self._memory.experiments.values())
        )

    def get_logged_model(self, model_id: str) -> Any:
        """Return a logged model."""
        return self._read(partial(self._client.get_logged_model, self._real(model_id)))

    # Outages ---------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait a moment for the rest to be delivered, say what is pending, and remove what is not needed any more."""
        atexit.unregister(self.close)
        if self._spool is None:
            return
        if self._away and not stopping.requested.is_set():
            self._back.wait(FINISH_SECONDS)
        with self._lock:
            spool, self._spool = self._spool, None
            count = len(spool.pending())
            spool.release()
        if count:
            _say(
                f"{count} entries for {self.shown} are pending, in {spool.folder}; the next command that reaches the server delivers "
                f"them, or: {SYNC}"
            )

    def _probe(self) -> None:
        """Look whether the server answers; a process that another one has started waits for it."""
        patience = PATIENCE_SECONDS if stopping.LAUNCHER_VARIABLE in os.environ else 0.0
        try:
            self._requests.make(self._ask_whether_there, seconds=connection.PROBE_SECONDS, attempts=1)
        except Closed as error:
            raise UserError(f"the tracking server {self.shown} does not let you in: {error}") from None
        except Away as error:
            if not patience:
                raise UserError(
                    f"the tracking server {self.shown} does not answer ({error}); start it, or check MLFLOW_TRACKING_URI"
                ) from None
            self._wait_for_server(self._ask_whether_there, str(error), patience)

    def _ask_whether_there(self) -> None:
        connection.is_there(self._client)

    def _write(self, operation: Operation) -> None:
        with self._lock:
            self._memory.change(operation, self._files().files if operation.file else Path())
            if self._away:
                self._files().append(operation)
                return
        try:
            self._requests.make(partial(perform, self._client, operation, self._ids, self._place()))
        except Away as error:
            with self._lock:
                self._files().append(operation)
                self._leave(str(error))
            return
        self._note_ids(operation)

    def _leave(self, why: str) -> None:
        """Note that the server is away, and begin to look for it."""
        if self._away:
            return
        self._away = True
        self._back.clear()
        _say(
            f"the tracking server {self.shown} does not answer ({why}); training goes on, and what it logs is kept in "
            f"{self._files().folder} until the server is back"
        )
        threading.Thread(target=self._look, name="look for the tracking server", daemon=True).start()

    def _look(self) -> None:
        """Look for the server every few seconds; once it is back, deliver everything."""
        while self._spool is not None:
            time.sleep(PROBE_EVERY_SECONDS)
            try:
                self._requests.make(self._ask_whether_there, seconds=connection.PROBE_SECONDS, attempts=1)
                count = self._deliver()
            except Away:
                continue
            except Exception as error:  # whatever it is, nothing is lost: it is tried again
                _say(f"delivering to {self.shown} failed, and is tried again: {reason(error, with_type=True)}")
                continue
            _say(f"the tracking server {self.shown} answers again: {count} entries delivered")
            return

    def _deliver(self) -> int:
        """Deliver all that is pending and return how much that was; writes meanwhile are appended."""
        count = 0
        while True:
            with self._lock:
                spool = self._spool
                if spool is None:
                    raise Away("the process ends")
                pending = spool.pending()
                if not pending:
                    self._away = False
                    self._back.set()
                    return count
            for operation in pending:
                self._requests.make(partial(deliver, spool, operation, self._client, self._ids), attempts=1)
                self._note_ids(operation)
                count += 1

    def _read(self, ask: Callable[[], T], remembered: Callable[[], T] | None = None) -> T:
        """Return an answer of the server; while it is away, what is remembered, or else wait for it."""
        why = "it is away"
        if not self._away:
            try:
                return self._requests.make(ask)
            except Away as error:
                why = str(error)
                with self._lock:
                    self._leave(why)
        if remembered is not None:
            try:
                return remembered()
            except Away as error:
                why = str(error)
        return self._wait_for_server(ask, why, PATIENCE_SECONDS)

    def _wait_for_server(self, ask: Callable[[], T], why: str, seconds: float) -> T:
        _say(f"waiting for the tracking server {self.shown}: this step needs it ({why})")
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            if stopping.requested.is_set():
                raise Interrupted
            time.sleep(0.2)
            if self._away:
                continue
            try:
                return self._requests.make(ask, attempts=1)
            except Away:
                time.sleep(1.0)
        raise UserError(
            f"the tracking server {self.shown} has not answered for {seconds:.0f} s, and this step needs it ({why}); what was "
            "logged is kept: start the server, and resume the run"
        )

    def _files(self) -> Spool:
        """Return the spool of this process; it is begun at the first need."""
        with self._lock:
            if self._spool is None:
                self._spool = Spool.new(self.uri)
                atexit.register(self.close)
            return self._spool

    def _place(self) -> Path:
        return self._spool.files if self._spool is not None else Path()

    def _real(self, run_id: str) -> str:
        """Return the server's id of what this machine has created, or the id itself."""
        return self._ids.get(run_id, run_id)

    def _settled(self, own: str) -> str:
        """Return the id by which what was just created is known from now on: the server's, or ours while it is away.

        Once it has the server's, nobody knows ours, so it need not be looked for in whatever is logged.
        """
        with self._lock:
            return own if self._away else self._ids.pop(own, own)

    def _learn(self, run_id: str) -> bool:
        """Return whether a run has got its real id meanwhile: a process that is alive has created it while the server was away."""
        last = time.monotonic() + LEARN_SECONDS
        while time.monotonic() < last and not stopping.requested.is_set():
            waits = has_spools(self.uri)
            if (ids := read_ids(self.uri)).get(run_id, run_id) != run_id:
                self._ids |= ids
                return True
            if not waits:
                return False
            time.sleep(0.2)
        return False

    def _note_ids(self, operation: Operation) -> None:
        """Note the server's id of what an operation has created."""
        own = operation.values.get("created_as")
        if own is None or own not in self._ids:
            return
        with self._lock:
            self._memory.rename(own, self._ids[own])
            if self._away:  # only then does anybody else know it under ours
                add_ids(self.uri, {own: self._ids[own]})


class _Page(list[Any]):
    """All that was found: there is no next page."""

    token = None

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__(items)


def deliver(spool: Spool, operation: Operation, client: MlflowClient, ids: Ids) -> None:
    """Deliver the first pending operation of a spool; one that the server refuses for good is set aside, and said.

    Raises:
        Exception: the server is away; the operation is still pending.
    """
    try:
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                perform(client, operation, ids, spool.files)
                break
            except MlflowException as error:
                if not is_conflict(error) or attempt == CONFLICT_ATTEMPTS - 1:
                    raise
    except Exception as error:
        if means_away(error) or why_closed(error):
            raise
        spool.refuse(operation, reason(error, with_type=True))
        _say(
            f"the server refuses an entry ({operation.kind}: {reason(error)}); it is set aside in {spool.folder / 'refused.jsonl'}"
        )
    spool.mark_delivered(spool.delivered() + 1)


def deliver_left(uri: str, client: MlflowClient, ids: Ids) -> int:
    """Deliver what processes that have ended have left for a server, and return how many operations that were."""
    count = 0
    for spool in left_spools(uri):
        try:
            for operation in spool.pending():
                deliver(spool, operation, client, ids)
                count += 1
                if (own := operation.values.get("created_as")) in ids:
                    add_ids(uri, {own: ids[own]})
        finally:
            spool.release()
    if count:
        _say(f"{count} entries that were pending are delivered to {redact(uri)}")
    return count


def _say(line: str) -> None:
    tqdm.write(f"mm-balance: {redact(line)}", file=sys.stderr)


def _now() -> int:
    return int(time.time() * 1000)
