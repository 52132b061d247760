"""Shared by all tests: one thread (the number of threads changes floating-point sums) and an MLflow store per test."""

from __future__ import annotations

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
import torch
from hypothesis import settings

from mm_balance.data import MultimodalData, Split
from mm_balance.types import InputSpec

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


def make_tiny_data(modalities=("audio", "visual"), classes=3, train=40, seed=0) -> MultimodalData:
    generator = torch.Generator().manual_seed(seed)

    def split(name: str, samples: int) -> Split:
        labels = torch.arange(samples) % classes
        inputs = {
            modality: torch.randn(samples, 1, 8, 8, generator=generator)
            + labels.view(-1, 1, 1, 1) * (1.0 - 0.4 * place)
            for place, modality in enumerate(modalities)
        }
        corrupted = [modalities[index % 2] if name == "train" and index % 5 == 0 else "" for index in range(samples)]
        return Split(name, inputs, labels, [f"{name}-{index}" for index in range(samples)], corrupted)

    splits = {name: split(name, samples) for name, samples in (("train", train), ("val", 12), ("test", 12))}
    spec = {name: InputSpec("image", (1, 8, 8), (0.8,), (1.2,)) for name in modalities}
    return MultimodalData(
        name="tiny",
        classes=tuple(str(index) for index in range(classes)),
        specs=spec,
        splits=splits,
        digest="0" * 64,
        recipe="none",
        truth_known=True,
        counts={name: len(value) for name, value in splits.items()},
        source="made by a test.",
    )
