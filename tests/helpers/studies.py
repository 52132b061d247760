"""Studies whose training is a formula."""

import os

from mm_balance.config import StudyConfig, apply_preset
from mm_balance.study.settings import new_settings
from tests.helpers.processes import ROOT, Forked
from tests.helpers.trivial_worker import work_alone


def settings_of(method="gap_mixture", **asked):
    """Settings of a study of ``method`` on data with the digest of ``tiny_data``."""
    study = StudyConfig(**{"space": None, "search": "weights", "pruner": "none", **asked})
    return new_settings(study, apply_preset({"method": method}), threads=1, data_digest="0" * 64, given=set())


def trivial_worker(handle, folder, seconds=0.0):
    """A process that works for ``handle`` with a formula instead of training; what it prints goes to ``folder``."""
    trivial_worker.started = getattr(trivial_worker, "started", 0) + 1
    log = folder / f"trivial-{trivial_worker.started}.log"
    return Forked(work_alone, (handle.name, handle.location, seconds), os.environ, ROOT, log)
