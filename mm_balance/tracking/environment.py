"""Environment of a run, in enough detail to repeat it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mm_balance
from mm_balance.redaction import redact

PACKAGES = (
    "torch",
    "torchvision",
    "mlflow",
    "optuna",
    "scikit-learn",
    "librosa",
    "numpy",
    "pandas",
    "matplotlib",
    "soundfile",
)


def environment() -> dict[str, Any]:
    """Return versions, machine, git commit and command line without credentials. Environment variables are not read."""
    return {
        "mm_balance": mm_balance.__version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "git": git_state(),
        "command": [Path(sys.argv[0]).name, *map(redact, sys.argv[1:])],
    }


def git_state() -> dict[str, Any]:
    """Return the commit and whether the working tree has changes; both None outside a git checkout of this project."""
    folder = Path(mm_balance.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            completed = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return completed.stdout.strip() if completed.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
