"""Which worker sees which device: a pure function of what there is."""

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
    """A place for one worker process.

    Attributes:
        device: what the worker is told: ``cpu``, or ``cuda`` = the one it can see.
        label: how people call it: ``cpu 0``, ``cuda:3``.
        environment: variables of its process: the one device, the cores, threads of numerical libraries.
    """

    device: str
    label: str
    environment: Mapping[str, str]


def choose_devices(asked: str, visible: Sequence[str]) -> list[str]:
    """The CUDA devices to use; empty = the CPU.

    Args:
        asked: ``auto``, ``cpu``, or numbers among the visible ones: ``0,1,3``.
        visible: what ``CUDA_VISIBLE_DEVICES`` would have to name for each visible device, in order.

    Raises:
        UserError: a device that is not there.
    """
    if asked == "cpu" or (asked == "auto" and not visible):
        return []
    if asked == "auto":
        return list(visible)
    chosen = []
    for word in asked.split(","):
        number = word.strip().removeprefix("cuda:")
        if not number.isdigit():
            raise UserError(f"devices={asked} is not understood; give auto, cpu, or CUDA devices by number like 0,1")
        if int(number) >= len(visible):
            raise UserError(f"devices={asked}: this machine has {len(visible)} CUDA device(s), there is no {number}")
        chosen.append(visible[int(number)])
    if len(set(chosen)) < len(chosen):
        raise UserError(f"devices={asked} names one twice; several workers share a device by workers=N")
    return chosen


def assign(devices: Sequence[str], workers: int | None, cores: Sequence[int]) -> list[Slot]:
    """One slot for each worker: devices in turn, cores shared out.

    Args:
        devices: CUDA devices from ``choose_devices``; empty = the CPU.
        workers: processes in all; None = one for each device, on a CPU two (or one for each core where there are fewer).
        cores: numbers of the cores that may be used.
    """
    count = workers or len(devices) or min(DEFAULT_CPU_WORKERS, len(cores))
    return [_slot(index, count, devices, share) for index, share in enumerate(_shares(cores, count))]


def threads_of(slots: Sequence[Slot]) -> int:
    """Threads of every worker: as many as the smallest share of cores."""
    return min(int(slot.environment["OMP_NUM_THREADS"]) for slot in slots)


def _shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """``count`` shares of ``cores``, whose sizes differ by one at most; more workers than cores share single ones."""
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
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to_cores() -> None:
    """Keep this process to the cores of its slot, where it has one and the system can do it."""
    chosen = os.environ.get(CORES_VARIABLE)
    if chosen and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in chosen.split(",")})


def visible_devices() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` must name for each CUDA device that this process sees, in order."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]
