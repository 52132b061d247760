"""Processes that die at a chosen moment, and what became of their runs: recorded for docs/reliability.md."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from tests.helpers.commands import artifacts, call
from tests.helpers.processes import ROOT, Forked, environment, in_epoch, start_forked

LOG_VARIABLE = "MM_BALANCE_FAULT_LOG"
"""Environment variable: the file that ``record`` appends to, if it is set."""


def record(fault: str, tries: int, survived: int, lost: int, sees: str) -> None:
    """Append what became of a fault, as one line of JSON, to the file of ``LOG_VARIABLE``."""
    if path := os.environ.get(LOG_VARIABLE):
        line = {"fault": fault, "tries": tries, "survived": survived, "lost": lost, "sees": sees}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def recorded(fault: str, sees: str) -> Iterator[None]:
    """Record one try of a fault: survived, unless the checks within fail."""
    survived = False
    try:
        yield
        survived = True
    finally:
        record(fault, 1, int(survived), int(not survived), sees)


def boundaries() -> list[tuple[Any, str]]:
    """Where a process hands something over: to the database, to the artifacts, to the file system."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return [
        *((SqlAlchemyStore, name) for name in ("create_run", "update_run_info", "log_batch", "set_tag", "log_inputs")),
        *((SqlAlchemyStore, name) for name in ("create_logged_model", "finalize_logged_model")),
        *((LocalArtifactRepository, name) for name in ("log_artifact", "log_artifacts")),
        *((os, name) for name in ("replace", "link")),
        (shutil, "rmtree"),
    ]


def at_boundary(number: int, act: Callable[[], Any], setattr: Callable[[Any, str, Any], Any] = setattr) -> None:
    """Have this process ``act`` at the n-th boundary that it reaches from now on: even = before it, odd = after it."""
    reached = itertools.count()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*words: Any, **more: Any) -> Any:
            if next(reached) == number:
                act()
            result = function(*words, **more)
            if next(reached) == number:
                act()
            return result

        return step

    for owner, name in boundaries():
        setattr(owner, name, watched(getattr(owner, name)))


def count_boundaries(do: Callable[[], Any], monkeypatch: Any) -> int:
    """How many boundaries ``do`` reaches."""
    reached = 0

    def count(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*words: Any, **more: Any) -> Any:
            nonlocal reached
            reached += 2
            return function(*words, **more)

        return step

    with monkeypatch.context() as patch:
        for owner, name in boundaries():
            patch.setattr(owner, name, count(getattr(owner, name)))
        do()
    return reached


def start_dying(store: Path, entry_point: str, words: Sequence[str], boundary: int) -> Forked:
    """An entry point in a forked process that is killed at a boundary."""
    log = store / f"{entry_point}-{time.monotonic_ns()}.log"
    return Forked(_call_dying, (entry_point, list(words), boundary), environment(store), store, log)


def start_sync_dying(store: Path, request: int, *, answered: bool) -> Forked:
    """`sync` to the server of ``helpers.flaky``, in a forked process that is killed before or after a request to it."""
    return Forked(
        _sync_dying, (str(store), request, answered), environment(store), store, store / f"sync-{request}.log"
    )


def start_fated(store: Path, entry_point: str, words: Sequence[str], epoch: int, *, killed: bool = True) -> Forked:
    """An entry point in a forked process that is killed, or waits for ever, as it begins an epoch."""
    log = store / f"{entry_point}-{time.monotonic_ns()}.log"
    return Forked(_call_fated, (entry_point, list(words), epoch, killed), environment(store), store, log)


def _call_fated(entry_point: str, words: list[str], epoch: int, killed: bool) -> int:
    import mlflow

    def wait() -> None:
        while True:
            signal.pause()

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    in_epoch(epoch, (lambda: os.kill(os.getpid(), signal.SIGKILL)) if killed else wait, setattr)
    return call(entry_point, words)


def _sync_dying(store: str, request: int, answered: bool) -> int:
    import pytest

    from tests.helpers.flaky import use_flaky_server

    with pytest.MonkeyPatch.context() as patch:
        weather = use_flaky_server(store, patch)
        setattr(weather, "killed_after" if answered else "killed_before", request)
        return call("sync", [])


def dying_first(entry: str, boundary: int) -> Callable[..., Forked]:
    """What a study uses to start its processes (``USED_BY_STUDIES``): the first worker is killed at a boundary, others live."""
    left = [boundary]

    def start(
        entry_point: str, words: Sequence[str], slot: Any, variables: Mapping[str, str], log: Path | None
    ) -> Forked:
        if entry_point != entry or not left:
            return start_forked(entry_point, words, slot, variables, log)
        known = {**os.environ, **slot.environment, **variables}
        place = log or Path(known["MM_BALANCE_CACHE"]) / f"{entry_point}-{time.monotonic_ns()}.log"
        return Forked(_call_dying, (entry_point, list(words), left.pop()), known, ROOT, place)

    return start


def _call_dying(entry_point: str, words: list[str], boundary: int) -> int:
    import mlflow

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    at_boundary(boundary, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return call(entry_point, words)


def everything(run: Run) -> set[str]:
    """Every artifact of a run by its path; of pictures, which are named by the time, what they are of: a picture sent twice is one."""
    found, waiting = set[str](), [""]
    while waiting:
        for path in artifacts(run, waiting.pop()):
            if "." in path.rpartition("/")[2] or path.startswith("checkpoints/"):
                found.add(re.sub(r"\+timestamp\+\d+\+[0-9a-f-]+", "", path))
            else:
                waiting.append(path)
    # Of every process that continues a run, one more.
    return {path for path in found if not re.fullmatch(r"environment_epoch_\d+\.json", path)}
