"""Reproducibility: seeding, saving and restoring random states (tensors and primitives only), and GPU numerics."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_numerics(device: torch.device, *, deterministic: bool) -> None:
    """Configure how this process computes on ``device``.

    TF32, which cuDNN uses by default and which keeps 10 of 23 mantissa bits, is disabled. A CPU is deterministic anyway, for a
    fixed number of threads.

    Args:
        device: training device.
        deterministic: bitwise reproducible runs on the same GPU machine: only deterministic kernels, which are slower; an
            operation without one raises an error (torch.use_deterministic_algorithms).
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False  # it selects kernels by timing, which varies between runs
    strict = deterministic and device.type == "cuda"
    torch.backends.cudnn.deterministic = strict
    torch.use_deterministic_algorithms(strict)
    if strict:  # read when cuBLAS is first used; without it, some cuBLAS results depend on streams
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def random_state() -> dict[str, Any]:
    """Return the state of all global generators as tensors and primitives (loadable with ``weights_only=True``)."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "python": [version, list(internal), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore a state captured by ``random_state``; CUDA states only for the devices that exist."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
