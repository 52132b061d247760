"""Tracking stores in a folder of a test's own."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow


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
