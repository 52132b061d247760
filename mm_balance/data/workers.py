"""Decoding in several processes, of which each may die: a decoder crashes, or memory runs out.

Tasks that were under way when a process died are done again, one after another in a process of their own, and in ever smaller
parts. So the file that ends processes is found, and only that one is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch
from threadpoolctl import threadpool_limits

from mm_balance.errors import Interrupted, UserError

PRELOADED = ["mm_balance.data.decoding"]
"""Modules that are imported once for all processes."""
Given = TypeVar("Given")
Result = TypeVar("Result")
_listener: Connection | None = None
"""In a process of ``_OneProcess``: its parent."""


@dataclass(frozen=True)
class Rescue(Generic[Given, Result]):
    """What to do with a task whose process died.

    Attributes:
        divide: task -> smaller tasks that together are the same; none = it cannot be divided.
        join: results of the smaller tasks -> result of the task.
        failed: result of a task that cannot be done, from the task, the reason, and what ``now_at`` said last (or nothing).
    """

    divide: Callable[[Given], list[Given]]
    join: Callable[[list[Result]], Result]
    failed: Callable[[Given, str, str], Result]


def results(
    work: Callable[[Given], Result],
    tasks: Iterable[Given],
    workers: int,
    stop: Callable[[], bool],
    rescue: Rescue[Given, Result],
) -> Iterator[Result]:
    """Yield what ``work`` returns for each task as it completes.

    Args:
        work: a function at the top level of a module.
        tasks: its arguments.
        workers: number of processes; 1 = work in this one, which is faster for a few files than starting another. A decoder that
            crashes then ends this process.
        stop: polled after every task.
        rescue: what to do with a task whose process died.

    Raises:
        Interrupted: ``stop`` returned True.
        UserError: processes cannot be started.
    """
    if workers == 1:
        for task in tasks:
            yield work(task)
            if stop():
                raise Interrupted
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    pending = iter(tasks)
    while lost := (yield from _until_one_dies(context, work, pending, workers, stop)):
        with _OneProcess(context, stop) as process:
            for task in lost:
                yield _rescued(process, work, task, rescue)


def _until_one_dies(
    context: Any, work: Callable[[Given], Result], pending: Iterator[Given], workers: int, stop: Callable[[], bool]
) -> Generator[Result, None, list[Given]]:
    """Yield results until there are no more tasks, or until a process dies; return the tasks that were under way then."""
    worker_end, parent_end = context.Pipe(duplex=False)
    with parent_end, worker_end, ProcessPoolExecutor(workers, context, _start_worker, (worker_end,)) as pool:
        running: dict[Future[Result], Given] = {}
        lost: list[Given] = []
        try:
            while True:
                # Submit only a few tasks ahead, so that a stop does not wait for thousands.
                while not lost and len(running) < 2 * workers and (task := next(pending, None)) is not None:
                    try:
                        running[pool.submit(work, task)] = task
                    except BrokenProcessPool:
                        lost.append(task)
                if not running:
                    return lost
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        lost.append(task)
                    else:
                        yield future.result()
                if stop():
                    raise Interrupted
        finally:
            pool.shutdown(cancel_futures=True)


def _rescued(
    process: _OneProcess, work: Callable[[Given], Result], task: Given, rescue: Rescue[Given, Result]
) -> Result:
    """Return the result of a task, done in a process of its own: in parts if that dies, too."""
    try:
        return process.do(work, task)
    except _Died as error:
        parts = rescue.divide(task)
        if not parts:
            return rescue.failed(task, str(error), error.at)
    return rescue.join([_rescued(process, work, part, rescue) for part in parts])


def now_at(place: str) -> None:
    """Note what is decoded now, in case that it ends the process. Of no effect in processes that are not suspicious."""
    if _listener is not None:
        _listener.send(("at", place))


class _Died(Exception):
    """A process died; ``at`` is what it noted last, or nothing."""

    def __init__(self, exit_code: int | None, at: str) -> None:
        self.at = at
        if exit_code == -signal.SIGKILL:
            reason = "was killed (SIGKILL), as happens when memory runs out"
        elif exit_code is not None and exit_code < 0:
            reason = f"crashed ({signal.Signals(-exit_code).name})"
        else:
            reason = f"ended (status {exit_code})"
        super().__init__(
            f"the process that decoded it {reason}, twice; if that can be cured, touch the file to try again"
        )


class _OneProcess:
    """A process that does one task at a time; after its death another one takes its place."""

    def __init__(self, context: Any, stop: Callable[[], bool]) -> None:
        self._context = context
        self._stop = stop
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> _OneProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._end()

    def do(self, work: Callable[[Given], Result], task: Given) -> Result:
        """Return ``work(task)``, or raise what it raises.

        Raises:
            _Died: the process died.
            Interrupted: ``stop`` returned True.
            UserError: processes cannot be started.
        """
        if self._process is None:
            self._start()
        at = ""
        try:
            self._pipe.send((work, task))
            while True:
                while not self._pipe.poll(1.0):
                    if self._stop():
                        raise Interrupted
                kind, value = self._pipe.recv()
                if kind != "at":
                    break
                at = value
        except (EOFError, ConnectionError):
            raise _Died(self._end(), at) from None
        if kind == "raised":
            raise value
        result: Result = value
        return result

    def _start(self) -> None:
        self._pipe, child = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(child,), daemon=True)
        self._process.start()
        child.close()
        try:
            self._pipe.recv()
        except EOFError as error:
            self._end()
            raise UserError(
                "a decoding process died as it was started (out of memory, or a script that prepares data outside "
                '`if __name__ == "__main__":`); decoded clips are kept: run again, perhaps with workers=1'
            ) from error

    def _end(self) -> int | None:
        self._pipe.close()
        self._process.join()
        code: int | None = self._process.exitcode
        self._process = None
        return code


def _serve(parent: Connection) -> None:
    global _listener
    _use_one_thread()
    _listener = parent
    parent.send(("at", ""))
    while True:
        try:
            work, task = parent.recv()
        except EOFError:
            return
        try:
            answer = "done", work(task)
        except Exception as error:  # raised again in the parent
            answer = "raised", error
        parent.send(answer)


def _start_worker(parent: Connection) -> None:
    def exit_with_parent() -> None:
        # A killed parent cannot stop its workers, which would wait for tasks forever. But its end of the pipe closes.
        try:
            parent.recv()
        except EOFError:
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    _use_one_thread()


def _use_one_thread() -> None:
    # There are as many processes as cores, so threads of torch and BLAS would only compete for them.
    torch.set_num_threads(1)
    threadpool_limits(1)
