"""Studies whose training is a formula."""

import os
import time
from pathlib import Path

from mm_balance.config import StudyConfig, apply_preset
from mm_balance.study.settings import new_settings
from tests.helpers.processes import Forked
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
