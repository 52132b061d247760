"""What makes a run repeatable: random states (set, capture, restore; tensors and primitives only), and how GPUs compute."""

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
    """How ``device`` computes from here on, in this process.

    float32 means float32: TF32, which cuDNN uses by default and which keeps 10 of 23 bits, is off. A CPU repeats its sums anyway,
    with the same number of threads.

    Args:
        device: where is trained.
        deterministic: on a GPU, the same bits in every run on the same machine: deterministic kernels only, which are slower, and an
            error where an operation has none (torch.use_deterministic_algorithms).
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False  # it would choose kernels by the clock
    strict = deterministic and device.type == "cuda"
    torch.backends.cudnn.deterministic = strict
    torch.use_deterministic_algorithms(strict)
    if strict:  # read when cuBLAS is first used; without it some of its sums depend on streams
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def random_state() -> dict[str, Any]:
    """The state of every global generator, as tensors and primitives (loadable with ``weights_only=True``)."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "python": [version, list(internal), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo to a state captured by ``random_state``; CUDA states are restored as far as there are devices."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
