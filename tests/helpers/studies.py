"""Studies whose training is a formula."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm_balance.config import StudyConfig, apply_preset
from mm_balance.study.settings import new_settings
from tests.helpers.commands import call
from tests.helpers.processes import Forked, environment
from tests.helpers.trivial_worker import work_alone


def settings_of(method="gap_mixture", **asked):
    """Settings of a study of ``method`` on data with the digest of ``tiny_data``."""
    study = StudyConfig(**{"space": None, "search": "weights", "pruner": "none", **asked})
    return new_settings(study, apply_preset({"method": method}), threads=1, data_digest="0" * 64, given=set())


def trivial_worker(handle, seconds=0.0):
    """A process that works for ``handle`` in the current folder, with a formula instead of training."""
    folder = Path.cwd()
    log = folder / f"trivial-{time.monotonic_ns()}.log"
    return Forked(work_alone, (handle.name, handle.location, seconds), os.environ, folder, log)


def start_without_workers(store: Path, entry_point: str, words: Sequence[str]) -> Forked:
    """A study's command in a forked process that trains nothing: it waits until another command has joined it, and ends."""
    log = store / f"{entry_point}-{time.monotonic_ns()}.log"
    return Forked(_without_workers, (entry_point, list(words)), environment(store), store, log)


def _without_workers(entry_point: str, words: list[str]) -> int:
    import mlflow

    from mm_balance.study import command

    def wait(handle: Any, launch: Any) -> None:
        Path(f"{os.getpid()}.here").touch()
        last = time.monotonic() + 60
        while len(list(Path().glob("*.here"))) < 2:
            assert time.monotonic() < last, "nobody has joined it"
            time.sleep(0.05)

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    command._run = wait
    return call(entry_point, words)
