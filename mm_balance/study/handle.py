"""Handle of an open study, for workers and launcher: the Optuna study, its settings, its run, its lock."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

import mm_balance
from mm_balance.config import validate
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import find_method
from mm_balance.redaction import redact
from mm_balance.study.settings import Settings
from mm_balance.study.storage import StudyLock, locate, open_storage
from mm_balance.study.trials import PARENT_RUN, SETTINGS, TRIALS, requeue_or_fail
from mm_balance.tracking.lookup import existing_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.provenance import training_code

SEED_STRIDE = 100_003
"""Sampler seed = study seed * ``SEED_STRIDE`` + number of trials so far."""
HYPERBAND_FACTOR = 3
WAIT_SECONDS = 0.5

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings(
    "ignore", category=optuna.exceptions.ExperimentalWarning
)  # metric names and figures; optuna is pinned below 6


@dataclass
class StudyHandle:
    """An open study.

    Attributes:
        study: the Optuna study.
        settings: its settings.
        parent: its MLflow run.
        lock: the lock under which trials are assigned.
        location: location of its storage.
    """

    study: optuna.Study
    settings: Settings
    parent: TrackedRun
    lock: StudyLock
    location: str

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def target_trials(self) -> int:
        """Requested number of trials."""
        return self.study.user_attrs[TRIALS]


def find_study(study_name: str, storage: str) -> StudyHandle | None:
    """The study of that name; None where the storage has none.

    Raises:
        UserError: the storage cannot be used; the study has another version or code, or its run is in another tracking store.
    """
    location = locate(storage, study_name)
    store = open_storage(location, requeue_stale)
    try:
        study = optuna.load_study(study_name=study_name, storage=store, sampler=RandomSampler())
    except KeyError:
        return None
    attributes = study.user_attrs
    if SETTINGS not in attributes or PARENT_RUN not in attributes:
        raise UserError(
            f"study {study_name} in {redact(location)} was not created by MM-Balance, or only partly; give another study_name"
        )
    settings = Settings.from_json(attributes[SETTINGS])
    if settings.version != mm_balance.__version__:
        raise UserError(
            f"study {study_name} was created by MM-Balance {settings.version}, this is {mm_balance.__version__}; "
            "continue with that version, or give another study_name"
        )
    code = training_code(find_method(settings.values["method"]), validate(settings.values))
    if settings.code != code:
        raise UserError(
            f"study {study_name} was created with different training code ({settings.code[:12]}, this is {code[:12]}): its trials "
            "would not be comparable; continue with that code, or give another study_name"
        )
    parent = existing_run(attributes[PARENT_RUN], f"study {study_name}: its run")
    return _handle(study, settings, parent, store, location)


@contextmanager
def creating(study_name: str, storage: str, stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock of those who create or continue a study: one creates it, and those who wait for it meanwhile join it.

    Raises:
        UserError: the storage cannot be used.
        Interrupted: a stop was requested while another command had the lock.
    """
    location = locate(storage, study_name)
    lock = StudyLock(open_storage(location, requeue_stale), location, study_name, purpose="creation")
    waits = False
    while not lock.try_to_acquire():
        if not waits:
            print(f"mm-balance: another command is creating study {study_name}; waiting for it", file=sys.stderr)
        waits = True
        if stop():
            raise Interrupted
        time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        lock.release()


def make_study(study_name: str, storage: str, settings: Settings, parent: TrackedRun, trials: int) -> StudyHandle:
    """Create a study. If several processes create one of the same name at once, all get that of the first.

    Raises:
        UserError: the storage cannot be used.
    """
    location = locate(storage, study_name)
    store = open_storage(location, requeue_stale)
    study = optuna.create_study(
        study_name=study_name,
        storage=store,
        directions=[StudyDirection[direction.upper()] for direction in settings.directions],
        sampler=RandomSampler(),
        load_if_exists=True,
    )
    with StudyLock(store, location, study_name):
        study.set_user_attr(TRIALS, trials)
        if SETTINGS in study.user_attrs:
            settings = Settings.from_json(study.user_attrs[SETTINGS])
            parent = existing_run(study.user_attrs[PARENT_RUN], f"study {study_name}: its run")
        else:
            study.set_metric_names(list(settings.objectives))
            study.set_user_attr(PARENT_RUN, parent.run_id)
            study.set_user_attr(SETTINGS, settings.to_json())
    return _handle(study, settings, parent, store, location)


def pin_warmups(handle: StudyHandle, warmups: Mapping[str, str]) -> StudyHandle:
    """Return the study with warm-up runs, seed (as text) -> id, for seeds that had none; existing ones are kept."""
    settings = replace(handle.settings, warmups={**warmups, **handle.settings.warmups})
    handle.study.set_user_attr(SETTINGS, settings.to_json())
    return replace(handle, settings=settings)


def _handle(
    study: optuna.Study, settings: Settings, parent: TrackedRun, store: BaseStorage, location: str
) -> StudyHandle:
    study.pruner = make_pruner(settings)
    return StudyHandle(study, settings, parent, StudyLock(store, location, study.study_name), location)


def make_pruner(settings: Settings) -> BasePruner:
    """Return the Optuna pruner of the settings; one step = one epoch of a trial."""
    if settings.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=settings.epochs, reduction_factor=HYPERBAND_FACTOR)
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    return NopPruner()


def make_sampler(settings: Settings, drawn: int) -> BaseSampler:
    """Return the Optuna sampler of the settings, for the trial after ``drawn`` others.

    Each trial gets a new sampler, seeded by the study's seed and the number of earlier trials. What is drawn depends only on the
    trials in the storage, not on the state of a worker, so an interrupted study resumes as if it had not been interrupted.
    """
    seed = settings.values["seed"] * SEED_STRIDE + drawn
    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(seed=seed, multivariate=True, constant_liar=True),
        "random": lambda: RandomSampler(seed=seed),
        "qmc": lambda: QMCSampler(seed=settings.values["seed"], scramble=True),
        "gp": lambda: GPSampler(seed=seed),
        "nsga2": lambda: NSGAIISampler(seed=seed),
    }
    return makers[settings.sampler]()


def requeue_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    """Fail the run of a trial whose worker's heartbeat has stopped, and queue the trial again."""
    requeue_or_fail(study, trial, existing_run(study.user_attrs[PARENT_RUN], f"study {study.study_name}: its run"))
