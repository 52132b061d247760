"""Shared by all tests: one thread (the number of threads changes floating-point sums) and an MLflow store per test."""

from __future__ import annotations

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
import torch
from hypothesis import settings

from mm_balance.data import MultimodalData
from mm_balance.testing import tiny_data as make_tiny_data

# The same examples every time: a red build means a change, not a new example. To look for new ones:
# HYPOTHESIS_PROFILE=explore pytest ...
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_data() -> MultimodalData:
    """Forty training samples of noise that carries the class in both modalities, small enough for milliseconds."""
    return make_tiny_data()
