"""A store that is a database: a client for it. A new SQLite database is made whole or not at all."""

from __future__ import annotations

import glob
import logging
import math
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mm_balance.errors import UserError
from mm_balance.redaction import redact

QUIET_SECONDS = 20.0
"""A program that does not use our lock, such as ``mlflow ui``, is still making a database if it has changed it within this time."""
POLL_SECONDS = 0.2

# MLflow logs every migration of a new database, which would hide our own output, and the traceback of every error that it raises, too.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
for _name in ("alembic", "mlflow.utils.environment", "mlflow.models.model"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_checked: set[Path] = set()
"""Databases that this process has found complete: what is complete stays so."""


class DatabaseClient(MlflowClient):
    """MLflow's client, with models: MLflow logs and registers them by functions apart."""

    def log_model(
        self, run_id: str, flavor: Any, name: str, step: int, tags: Mapping[str, str], content: Mapping[str, Any]
    ) -> str:
        """Log a model and return its URI, ``models:/...``.

        Args:
            run_id: the run.
            flavor: its ``save_model(path, mlflow_model, **content)`` writes the model's folder.
            name: name of the model on the run.
            step: epoch of the model.
            tags: its tags.
            content: arguments of ``flavor``.
        """
        logged = Model.log(
            artifact_path=None,
            flavor=flavor,
            flavor_name="pyfunc",
            name=name,
            run_id=run_id,
            step=step,
            tags=dict(tags),
            **content,
        )
        return logged.model_uri

    def register_model(self, uri: str, name: str, description: str, alias: str) -> str:
        """Make a logged model a version in the registry, and return the version; ``alias`` empty = none."""
        version = mlflow.register_model(uri, name).version
        self.update_model_version(name, version, description)
        if alias:
            self.set_registered_model_alias(name, alias, version)
        return str(version)

    def model_place(self, uri: str) -> str:
        """Return where to load a logged model from: its URI."""
        return uri


def database_client(uri: str) -> DatabaseClient:
    """Return a client of a store that is not a server, whose database is complete.

    Raises:
        UserError: the store cannot be opened or made.
    """
    file = database_file(uri)
    if file is not None:
        make_database(file)
    try:
        return DatabaseClient()
    except (MlflowException, SQLAlchemyError) as error:
        why = redact(str(error).splitlines()[0])
        raise UserError(f"the tracking store {redact(uri)} cannot be opened: {why}") from error


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, ``sqlite:///...``; None for every other store, and for one in memory."""
    if not uri.startswith("sqlite"):
        return None
    try:
        name = make_url(uri).database
    except ArgumentError:
        return None  # MLflow says what is wrong with it
    return None if name in (None, "", ":memory:") or name.startswith("file:") else Path(name).absolute()


def make_database(file: Path) -> None:
    """Make the SQLite database of a store unless it is there; any number of processes may do so at once.

    MLflow runs tens of migrations on a new database. Two processes that do so at once both fail, and one that is killed meanwhile can
    leave a database that no later process can use. So it is made under a lock, in a temporary file, which is linked to its place.

    Args:
        file: the database.

    Raises:
        UserError: it cannot be made; or another program left it half made.
    """
    if file in _checked:
        return
    try:
        if not _is_complete(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = file.with_name(f".{file.name}.lock")
            with FileLock(lock):
                _make(file)
                lock.unlink(missing_ok=True)  # whoever waits for it finds the database complete
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise UserError(f"the tracking store {file} cannot be made or read: {reason}") from error
    _checked.add(file)


def _make(file: Path) -> None:
    """Make ``file`` if it is still missing; wait for another program that is making it."""
    while not _is_complete(file) and _changed_seconds_ago(file) < QUIET_SECONDS:
        time.sleep(POLL_SECONDS)
    if _tables(file):
        _finish(file)
        return
    prefix = f".{file.name}-"
    for left in file.parent.glob(f"{glob.escape(prefix)}*/"):  # killed processes': only we have the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=file.parent) as folder:
        made = Path(folder) / file.name
        _open(made)
        file.unlink(missing_ok=True)  # of no bytes: a program was killed as it opened it
        try:
            os.link(made, file)  # unlike a renaming, it cannot replace what another program has made meanwhile
        except FileExistsError:
            _finish(file)
        except OSError:  # a file system without hard links
            os.replace(made, file)


def _open(file: Path) -> None:
    """Have MLflow open a database, which adds what it lacks."""
    # Made so, the address is right for a folder whose name has a percent sign, too.
    uri = URL.create("sqlite", database=str(file)).render_as_string()
    SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


def _finish(file: Path) -> None:
    """Have MLflow open a database, which finishes one that another program was killed at. Raises UserError if it cannot."""
    try:
        _open(file)
    except (MlflowException, SQLAlchemyError) as error:
        if _runs(file):
            raise UserError(
                f"MLflow cannot open the tracking store {file}: {str(error).splitlines()[0]} If an older MLflow made it, copy it "
                f"and run: mlflow db upgrade sqlite:///{file}"
            ) from error
        raise UserError(
            f"the tracking store {file} is half made, by a program that was ended meanwhile, and has no runs: remove it, and repeat "
            "the command"
        ) from error


def _changed_seconds_ago(file: Path) -> float:
    """Return the time since a database was changed; infinity if there is none."""
    journal = file.with_name(f"{file.name}-journal")
    return min((time.time() - path.stat().st_mtime for path in (file, journal) if path.exists()), default=math.inf)


def _is_complete(file: Path) -> bool:
    """Whether a database has all tables of MLflow; if it is of an older MLflow, MLflow says so."""
    return set(Base.metadata.tables) <= _tables(file)


def _tables(file: Path) -> set[str]:
    """Return the names of the tables in ``file``; empty if there is no such file."""
    if not file.is_file():
        return set()
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _runs(file: Path) -> int:
    """Return the number of runs in ``file``."""
    if "runs" not in _tables(file):
        return 0
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0])
