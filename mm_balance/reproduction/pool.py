"""Worker processes for independent tasks: one process per slot, so that a process that dies costs its own task and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from mm_balance.memory import keep_freed_memory
from mm_balance.study.devices import Slot

POLL_SECONDS = 0.2
GRACE_SECONDS = 60
"""Time for a stopping process to save its checkpoint."""
MOST_DEATHS = 2
"""Processes that a task may cost before it counts as failed."""

T = TypeVar("T")
R = TypeVar("R")


class WorkerDied(Exception):
    """The process of a task ended without an answer, as when the system kills it for want of memory."""


class _Worker:
    """What this process knows if it is a worker."""

    stop: Any = None
    told_to_stop = False
    busy = threading.Lock()


def cpu_slots(count: int) -> list[Slot]:
    """Return slots of one CPU thread each: results on a CPU depend on the number of threads, so it is always the same."""
    return [Slot("cpu", f"cpu {index}", {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}) for index in range(count)]


def stop_requested() -> bool:
    """Whether this worker process should stop: on request, or because the process that started it has died."""
    return _Worker.told_to_stop or (_Worker.stop is not None and _Worker.stop.is_set())


def never() -> bool:
    """Return False: for work that nobody stops."""
    return False


def ignore(task: Any) -> None:
    """Do nothing with a task."""


def anything(task: Any, finished: Any) -> bool:
    """Return True: for tasks that need no other."""
    return True


def work_through(
    tasks: Sequence[T],
    do: Callable[[T], R],
    slots: Sequence[Slot],
    *,
    ready: Callable[[T, set[T]], bool] = anything,
    stop: Callable[[], bool] = never,
    on_death: Callable[[T], None] = ignore,
) -> Iterator[tuple[T, R | Exception]]:
    """Do the tasks in worker processes, in order where possible, and yield each with its result, or the exception that ended it.

    A task whose process dies is done once more in a new one; when that dies too, its exception is ``WorkerDied``.

    Args:
        tasks: the tasks, all different, hashable; a task must not depend on a later one.
        do: does one, in another process; polls ``stop_requested``.
        slots: one for each process.
        ready: (task, finished tasks) -> whether the task can begin.
        stop: polled; once True, no task begins, and those under way are asked to stop.
        on_death: called with the task whose process has died.
    """
    context = multiprocessing.get_context("spawn")
    event = context.Event()
    executors = [new_executor(slot, event) for slot in slots]
    waiting, finished = deque(tasks), set[T]()
    running: dict[int, tuple[T, Future[R]]] = {}
    deaths: Counter[T] = Counter()
    grace = GRACE_SECONDS
    try:
        while running or (waiting and not stop()):
            for index in range(len(slots)):
                task = next((item for item in waiting if ready(item, finished)), None)
                if index not in running and task is not None and not stop():
                    waiting.remove(task)
                    running[index] = (task, executors[index].submit(do, task))
            if stop():
                event.set()
            futures: dict[Future[R], int] = {future: index for index, (_, future) in running.items()}
            for future in wait(futures, POLL_SECONDS, FIRST_COMPLETED).done:
                index = futures[future]
                task, _ = running.pop(index)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    executors[index].shutdown(wait=False)
                    executors[index] = new_executor(slots[index], event)
                    on_death(task)
                    deaths[task] += 1
                    if stop():  # it was killed together with the command
                        continue
                    if deaths[task] < MOST_DEATHS:
                        waiting.appendleft(task)
                        continue
                    error = WorkerDied(f"its process was killed {MOST_DEATHS} times; is there enough memory?")
                finished.add(task)
                yield task, _outcome(future, error)
    except KeyboardInterrupt:  # a second signal: nothing is waited for
        grace = 0
        raise
    finally:
        event.set()
        _end(executors, {future for _, future in running.values()}, grace)


def _outcome(future: Future[Any], error: BaseException | None) -> Any:
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error


def _end(executors: Sequence[Executor], running: set[Future[Any]], grace: float) -> None:
    """End the processes: those under way have ``grace`` seconds to save."""
    try:
        wait(running, grace)
    finally:
        processes = [process for item in executors for process in (getattr(item, "_processes", None) or {}).values()]
        for item in executors:
            item.shutdown(wait=False, cancel_futures=True)
        if any(not future.done() for future in running):
            for process in processes:
                process.kill()


def new_executor(slot: Slot, stop: Any) -> Executor:
    """Return an executor of one process in ``slot``."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _set_up, (dict(slot.environment), stop, os.getpid()))


def _set_up(environment: dict[str, str], stop: Any, parent: int) -> None:
    """Prepare this process as a worker: its device and threads, memory settings as in all commands, signals, no progress bars."""
    # The command adopts the run that `mlflow run` has made; a worker must not.
    os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.update({**environment, "TQDM_DISABLE": "1"})
    # Ctrl-C reaches all processes of the terminal: the command tells its workers what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(_Worker, "told_to_stop", True))
    _Worker.stop = stop
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    keep_freed_memory()
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))


def _watch(parent: int) -> None:
    """End this process when the one that started it has died, after a task under way has saved its state."""
    while os.getppid() == parent:
        time.sleep(1)
    _Worker.told_to_stop = True
    _Worker.busy.acquire(timeout=GRACE_SECONDS)
    os._exit(1)


def busy() -> AbstractContextManager[Any]:
    """Return what a task holds while this process works on it, so that it can save its state if the command dies."""
    return _Worker.busy
