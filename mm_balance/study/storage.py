"""Storage of studies (Optuna's own storages), and the lock under which trials are assigned."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from mm_balance.alive import hold, is_held
from mm_balance.errors import UserError
from mm_balance.folders import cache_folder
from mm_balance.redaction import redact

HEARTBEAT_SECONDS = 60
HEARTBEAT_GRACE_SECONDS = 180
PROXY_PORT = 13000
"""Optuna's default."""
PROXY_SECONDS = 20
FROM_ENVIRONMENT = "env:"

OnStale = Callable[[optuna.Study, optuna.trial.FrozenTrial], None]


def study_folder(study_name: str) -> Path:
    """Return the folder of a study on this machine: journal, locks, worker logs. Raises UserError for an invalid name."""
    if not re.fullmatch(r"[\w+-][\w.+-]{0,99}", study_name):
        raise UserError(
            f"study_name={study_name[:100]}: use letters, digits, dot (not first), dash and underscore, at most 100"
        )
    return cache_folder() / "studies" / study_name


def locate(storage: str, study_name: str) -> str:
    """Return the location of a storage.

    Args:
        storage: ``auto`` = the study's own journal file; ``env:VARIABLE`` = what this environment variable says, so that a password
            appears neither on a command line nor among the parameters of a run; else the location itself.
        study_name: name of the study.

    Raises:
        UserError: there is no such environment variable.
    """
    if storage.startswith(FROM_ENVIRONMENT):
        variable = storage.removeprefix(FROM_ENVIRONMENT)
        storage = os.environ.get(variable, "")
        if not storage:
            raise UserError(f"storage={FROM_ENVIRONMENT}{variable}: the environment variable {variable} is not set")
    if storage == "auto":
        return str(study_folder(study_name) / "study.journal")
    try:
        return storage if "://" in storage else str(Path(storage).expanduser().resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a link to itself, a NUL character, no such user
        raise UserError(f"storage={redact(storage)[:100]}: no path ({error})") from None


def open_storage(location: str, on_stale: OnStale) -> BaseStorage:
    """Open or create a storage.

    Args:
        location: as returned by ``locate``.
        on_stale: called for a trial whose worker's heartbeat has stopped (databases only).

    Raises:
        UserError: it cannot be reached, or is not a storage supported by Optuna.
    """
    if "://" not in location:
        if not location.endswith(".journal"):
            raise UserError(
                f"storage={redact(location)}: give a path ending in .journal, postgresql://..., or grpc://host:port"
            )
        try:
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(location))
        except OSError as error:
            raise UserError(f"storage={location[:200]} cannot be opened: {error.strerror or error}") from None
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            AssertionError,
        ) as error:  # as Optuna replays its lines
            raise UserError(
                f"storage={location}: the file is no journal of studies, or damaged ({str(error)[:80]}); give another, or restore it"
            ) from error
    if location.startswith("grpc://"):
        return _open_proxy(location)
    try:
        return RDBStorage(
            location,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=HEARTBEAT_GRACE_SECONDS,
            heartbeat_stale_trial_callback=on_stale,
        )
    except ImportError as error:
        raise UserError(
            f"storage={redact(location)}: the database's driver is missing ({error}); for PostgreSQL: "
            "pip install psycopg[binary], postgresql+psycopg://..."
        ) from None
    except (SQLAlchemyError, ValueError) as error:  # the latter for a port that is no number
        reason = redact(str(getattr(error, "orig", None) or error)).strip().splitlines()[0]
        raise UserError(f"storage={redact(location)} cannot be opened: {reason}") from None


def _open_proxy(location: str) -> BaseStorage:
    match = re.fullmatch(r"grpc://(\[[^]]+\]|[^:/]+)(?::(\d+))?/?", location)
    if match is None:
        raise UserError(f"storage={redact(location)}: write grpc://host:port")
    try:
        proxy = GrpcStorageProxy(host=match[1], port=int(match[2] or PROXY_PORT))
        proxy.wait_server_ready(timeout=PROXY_SECONDS)
    except ImportError:
        raise UserError(
            "storage=grpc://... needs the packages grpcio and protobuf: pip install grpcio protobuf"
        ) from None
    except ConnectionError:
        raise UserError(
            f"storage={redact(location)}: no proxy answers there within {PROXY_SECONDS} s; start one with "
            "optuna.storages.run_grpc_proxy_server(storage, host=..., port=...)"
        ) from None
    return proxy


class StudyLock:
    """Lock under which a worker counts trials, takes one and draws its parameters, so that no two workers do so at once.

    A file lock on one machine, an advisory lock on PostgreSQL. gRPC and other databases offer no lock across machines: there a
    study may end with up to ``workers - 1`` more trials than requested.

    Args:
        storage: the open storage.
        location: its location.
        study_name: name of the study.
        purpose: what is done under the lock; locks of different purposes have nothing to do with one another.
    """

    def __init__(self, storage: BaseStorage, location: str, study_name: str, *, purpose: str = "trials") -> None:
        self.storage = storage
        self.path = (
            study_folder(study_name) / f"{purpose}.lock" if "://" in location else Path(f"{location}.{purpose}-lock")
        )
        self.on_postgres = location.startswith("postgresql")
        self.key = zlib.crc32((study_name if purpose == "trials" else f"{study_name} {purpose}").encode())
        self.held: Any = None

    def acquire(self) -> None:
        if self.on_postgres:
            self._connect().execute(text("SELECT pg_advisory_lock(:key)"), {"key": self.key})
            return
        fcntl.flock(self._open(), fcntl.LOCK_EX)

    def try_to_acquire(self) -> bool:
        """Acquire the lock unless it is held; return whether it was acquired."""
        if self.on_postgres:
            statement = text("SELECT pg_try_advisory_lock(:key)")
            if self._connect().execute(statement, {"key": self.key}).scalar():
                return True
        else:
            try:
                fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                pass
        held, self.held = self.held, None
        held.close()
        return False

    def _connect(self) -> Any:
        assert isinstance(self.storage, RDBStorage)
        self.held = self.storage.engine.connect()
        return self.held

    def _open(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.held = self.path.open("a")
        return self.held

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        held, self.held = self.held, None
        if held is None:
            return
        if self.on_postgres:
            held.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self.key})
        held.close()

    def __enter__(self) -> StudyLock:
        self.acquire()
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()


@contextmanager
def worker_lock(study_name: str, identity: str) -> Iterator[None]:
    """Mark the worker ``identity`` as alive, by a lock that the system releases if the process dies."""
    path = _worker_lock_file(study_name, identity)
    with hold(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def new_identity() -> str:
    """Return a unique name for a worker, which includes the location of its lock."""
    return f"{_lock_domain()}/{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _lock_domain() -> str:
    """Return an id of host and cache folder: workers with the same id can see each other's locks."""
    return f"{socket.gethostname()}-{zlib.crc32(str(cache_folder().resolve()).encode()):08x}"


def worker_is_alive(study_name: str, identity: str) -> bool:
    """Whether a worker is alive. One on another host or cache folder always counts as alive: only a heartbeat can tell."""
    if identity.split("/")[0] != _lock_domain():
        return True
    return is_held(_worker_lock_file(study_name, identity))


def _worker_lock_file(study_name: str, identity: str) -> Path:
    return study_folder(study_name) / "alive" / identity.split("/")[1]


def dead_worker_locks() -> list[Path]:
    """Return the files of workers of this machine that have died."""
    return [path for path in sorted(cache_folder().glob("studies/*/alive/*")) if not is_held(path)]
