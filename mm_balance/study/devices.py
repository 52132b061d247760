"""Assignment of devices and cores to workers, as a pure function of those available."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mm_balance.errors import UserError

CORES_VARIABLE = "MM_BALANCE_CORES"
DEFAULT_CPU_WORKERS = 2


@dataclass(frozen=True)
class Slot:
    """Resources of one worker process.

    Attributes:
        device: value of the worker's parameter ``device``: ``cpu``, or ``cuda`` = the only one visible to it.
        label: display name: ``cpu 0``, ``cuda:3``.
        environment: environment variables of the process: its device, its cores, threads of numerical libraries.
    """

    device: str
    label: str
    environment: Mapping[str, str]


def choose_devices(requested: str, visible: Sequence[str]) -> list[str]:
    """Return the CUDA devices to use; empty = the CPU.

    Args:
        requested: ``auto``, ``cpu``, or numbers among the visible ones: ``0,1,3``.
        visible: for each visible device, in order, its name in ``CUDA_VISIBLE_DEVICES``.

    Raises:
        UserError: a device does not exist, is named twice, or is not understood.
    """
    if requested == "cpu" or (requested == "auto" and not visible):
        return []
    if requested == "auto":
        return list(visible)
    chosen = []
    for item in requested.split(","):
        number = item.strip().removeprefix("cuda:")
        if not number.isdigit():
            raise UserError(
                f"devices={requested} is not understood; give auto, cpu, or CUDA devices by number like 0,1"
            )
        if int(number) >= len(visible):
            raise UserError(
                f"devices={requested}: this machine has {len(visible)} CUDA device(s), there is no device {number}"
            )
        chosen.append(visible[int(number)])
    if len(set(chosen)) < len(chosen):
        raise UserError(f"devices={requested} names a device twice; to share a device between workers, use workers=N")
    return chosen


def assign(devices: Sequence[str], workers: int | None, cores: Sequence[int]) -> list[Slot]:
    """Return one slot per worker, with devices assigned in turn and the cores divided.

    Args:
        devices: CUDA devices from ``choose_devices``; empty = the CPU.
        workers: total number of processes; None = one per device, on a CPU two (or one per core if there are fewer).
        cores: numbers of the cores that may be used.
    """
    count = workers or len(devices) or min(DEFAULT_CPU_WORKERS, len(cores))
    return [_slot(index, count, devices, share) for index, share in enumerate(_shares(cores, count))]


def threads_of(slots: Sequence[Slot]) -> int:
    """Return the number of threads of every worker: the size of the smallest share of cores."""
    return min(int(slot.environment["OMP_NUM_THREADS"]) for slot in slots)


def _shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Divide ``cores`` into ``count`` shares whose sizes differ by at most one; more workers than cores share single cores."""
    if count >= len(cores):
        return [[cores[index % len(cores)]] for index in range(count)]
    bounds = [round(index * len(cores) / count) for index in range(count + 1)]
    return [list(cores[low:high]) for low, high in pairwise(bounds)]


def _slot(index: int, count: int, devices: Sequence[str], cores: Sequence[int]) -> Slot:
    threads = str(len(cores))
    environment = {
        CORES_VARIABLE: ",".join(map(str, cores)),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": devices[index % len(devices)] if devices else "",
    }
    if not devices:
        return Slot("cpu", f"cpu {index}", environment)
    return Slot("cuda", f"cuda:{devices[index % len(devices)]}", environment)


def own_cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to_cores() -> None:
    """Pin this process to the cores of its slot, if it has one and the system supports it."""
    chosen = os.environ.get(CORES_VARIABLE)
    if chosen and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in chosen.split(",")})


def visible_devices() -> list[str]:
    """Return, for each CUDA device visible to this process, in order, its name in ``CUDA_VISIBLE_DEVICES``."""
    import torch

    count = torch.cuda.device_count()
    restricted = os.environ.get("CUDA_VISIBLE_DEVICES")
    return restricted.split(",")[:count] if restricted else [str(index) for index in range(count)]
