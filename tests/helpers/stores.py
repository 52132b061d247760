"""Tracking stores in a folder of a test's own."""

import shutil
import signal
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest
import torch


def copy_database(source: Path, folder: Path) -> None:
    """An empty store for ``folder``: a copy of an empty database whose artifacts lie there."""
    target = folder / "mlflow.db"
    shutil.copy(source, target)
    with closing(sqlite3.connect(target)) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? || '/mlruns/' || experiment_id", (folder.as_posix(),)
        )


def use_store(folder: Path, patch) -> None:
    """Commands of this process, and processes that it starts, use the store and the cache of ``folder`` and work in it."""
    uri = f"sqlite:///{folder}/mlflow.db"
    patch.setenv("MLFLOW_TRACKING_URI", uri)
    patch.setenv("MM_BALANCE_CACHE", str(folder / "cache"))
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        patch.delenv(name, raising=False)
    patch.chdir(folder)
    mlflow.set_tracking_uri(uri)


@contextmanager
def store_of_a_fixture(folder: Path, empty_database: Path):
    """Commands in the block use a new store in ``folder``, and one thread as tests do; after it, signals are handled as before.

    The block is given what it may patch with.
    """
    copy_database(empty_database, folder)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        use_store(folder, patch)
        torch.set_num_threads(1)
        yield patch
    for number, handler in before.items():
        signal.signal(number, handler)
