"""Shared by all tests: one thread (the number of threads changes floating-point sums) and an MLflow store per test."""

from __future__ import annotations

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # with a process on every core, a second thread each only waits

import signal
import sys

import mlflow
import pytest
import torch
from hypothesis import settings

from mm_balance.data import MultimodalData
from mm_balance.testing import tiny_data as make_tiny_data
from mm_balance.tracking.lookup import prepare_store
from tests.helpers import digits
from tests.helpers.stores import copy_database, use_store

# The same examples every time: a red build means a change, not a new example. To look for new ones:
# HYPOTHESIS_PROFILE=explore pytest ...
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


LONGEST_FIRST = ("end_to_end", "study", "workflow", "methods", "analysis", "engine")
"""Folders of tests; what takes long at the end would keep one process busy alone."""


def pytest_collection_modifyitems(items):
    def place(item):
        folder = item.path.parent.name
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _digits_made_once():
    with pytest.MonkeyPatch.context() as patch:
        digits.keep(patch)
        yield


@pytest.fixture
def tiny_data() -> MultimodalData:
    """Forty training samples of noise that carries the class in both modalities, small enough for milliseconds."""
    return make_tiny_data()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An MLflow database without runs: making one takes a second, copying it none."""
    folder = tmp_path_factory.mktemp("database")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # artifacts would lie in the working folder
        prepare_store()
    mlflow.set_tracking_uri(before)
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path, monkeypatch, empty_database):
    """The folder of an empty store, which processes started by the test use too."""
    copy_database(empty_database, tmp_path)
    use_store(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory, empty_database):
    """The folder of a store that all tests of a module use one after another."""
    folder = tmp_path_factory.mktemp("shared")
    copy_database(empty_database, folder)
    with pytest.MonkeyPatch.context() as patch:
        use_store(folder, patch)
        yield folder


@pytest.fixture
def import_folder(tmp_path, monkeypatch):
    """A folder whose modules can be imported during the test, and are forgotten after it."""
    folder = tmp_path / "importable"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def signals():
    """Commands take the signals over; afterwards they are pytest's again."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
