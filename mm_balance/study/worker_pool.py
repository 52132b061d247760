"""Worker processes of a study on this machine: one per slot, monitored, restarted and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mm_balance
from mm_balance.config import Config, format_value, stage_options
from mm_balance.errors import UserError
from mm_balance.stopping import LAUNCHER_VARIABLE
from mm_balance.study.devices import Slot
from mm_balance.study.handle import StudyHandle
from mm_balance.study.storage import FROM_ENVIRONMENT, new_identity, study_folder
from mm_balance.study.trials import all_trials, count_trials
from mm_balance.study.worker import IDENTITY_VARIABLE
from mm_balance.tracking.lookup import child_environment
from mm_balance.tracking.runs import TrackedRun

POLL_SECONDS = 0.5
GRACE_SECONDS = 60
"""Time for a stopping process to save its checkpoint."""
LOG_TAIL = 2000
STORAGE_VARIABLE = "MM_BALANCE_STORAGE"
"""Location of the storage, for workers: it may hold a password, and every user of a machine sees all command lines."""


@dataclass
class WorkerProcess:
    """A slot and its current process.

    Attributes:
        slot: device and cores.
        log: file with the output of all processes of the slot.
        process: the current process.
        identity: its worker name in the study.
    """

    slot: Slot
    log: Path
    process: subprocess.Popen[bytes]
    identity: str


@dataclass
class WorkerPool:
    """The workers of one study on this machine.

    Args:
        handle: the study.
        slots: one for each worker.
        restarts: maximum number of restarts, over all workers.
    """

    handle: StudyHandle
    slots: Sequence[Slot]
    restarts: int
    workers: list[WorkerProcess] = field(default_factory=list)
    died: int = 0

    def run(self, stop: Callable[[], bool], on_poll: Callable[[], None]) -> None:
        """Run workers until the study has all its trials, or a stop is requested; call ``on_poll`` repeatedly meanwhile.

        Raises:
            UserError: a worker ended with an error that the user can fix, or more workers died than may be restarted.
        """
        try:
            self.workers = [self._start(index, slot) for index, slot in enumerate(self.slots)]
            while not stop() and not self._done():
                self._replace_dead()
                on_poll()
                time.sleep(POLL_SECONDS)
        finally:
            self.stop_all()
            on_poll()

    def stop_all(self) -> None:
        """End all workers: send a signal, allow time to save, then kill."""
        processes = [worker.process for worker in self.workers]
        if self._done():  # workers notice this and end by themselves
            _wait(processes, GRACE_SECONDS)
        end_processes(processes)

    def _done(self) -> bool:
        return count_trials(all_trials(self.handle.study)).finished >= self.handle.target_trials

    def _replace_dead(self) -> None:
        for index, worker in enumerate(self.workers):
            status = worker.process.poll()
            if status is None or self._done():
                continue
            if status == 1 and (message := last_error(worker.log)):
                raise UserError(message)
            self.died += 1
            reason = f"signal {-status}" if status < 0 else f"status {status}"
            if self.died > self.restarts:
                raise UserError(
                    f"worker {worker.slot.label} ended with {reason}, after {self.restarts} restarts "
                    f"(worker_restarts); last output: {_tail(worker.log) or 'none'}"
                )
            print(f"mm-balance: worker {worker.slot.label} ended with {reason}; starting another", file=sys.stderr)
            self.workers[index] = self._start(index, worker.slot)

    def _start(self, index: int, slot: Slot) -> WorkerProcess:
        identity = new_identity()
        log = study_folder(self.handle.name) / f"worker-{index}.log"
        arguments = [
            "--study_name",
            self.handle.name,
            "--storage",
            f"{FROM_ENVIRONMENT}{STORAGE_VARIABLE}",
            "--device",
            slot.device,
        ]
        environment = {IDENTITY_VARIABLE: identity, "TQDM_DISABLE": "1"}
        environment |= {STORAGE_VARIABLE: self.handle.location} | child_environment(self.handle.parent)
        return WorkerProcess(slot, log, start_process("worker", arguments, slot, environment, log), identity)


def start_process(
    entry_point: str, arguments: Sequence[str], slot: Slot, environment: Mapping[str, str], log: Path | None
) -> subprocess.Popen[bytes]:
    """Start an entry point in its own process and slot, with its output in ``log``, or in that of this process."""
    root = Path(mm_balance.__file__).parents[1]
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    paths = os.pathsep.join(filter(None, [str(root), inherited.get("PYTHONPATH")]))
    known = {"PYTHONPATH": paths, LAUNCHER_VARIABLE: str(os.getpid())}
    variables = {**inherited, **known, **slot.environment, **environment}
    command = [sys.executable, "-m", f"entrypoints.{entry_point}", *arguments]
    if log is None:
        return subprocess.Popen(command, env=variables, start_new_session=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, env=variables, stdout=file, stderr=file, start_new_session=True)


def train_warmups(
    configs: Sequence[Config], slots: Sequence[Slot], parent: TrackedRun, stop: Callable[[], bool], folder: Path
) -> None:
    """Train warm-up runs in the experiment of ``parent``, as many at a time as there are slots.

    Raises:
        UserError: one failed.
    """
    queue = list(configs)
    running: dict[int, tuple[subprocess.Popen[bytes], Path | None]] = {}
    try:
        while (queue or running) and not stop():
            for index, slot in enumerate(slots):
                if index in running and running[index][0].poll() is not None:
                    process, log = running.pop(index)
                    if process.returncode:
                        message = last_error(log) if log else "see above"
                        raise UserError(f"the warm-up failed: {message or f'see {log}'}")
                if index not in running and queue:
                    config = queue.pop(0)
                    log = folder / f"warmup-seed-{config.run.seed}.log" if len(configs) > 1 else None
                    print(f"mm-balance: training the warm-up for seed {config.run.seed}", file=sys.stderr)
                    running[index] = (
                        start_process("warmup", warmup_arguments(config, slot), slot, child_environment(parent), log),
                        log,
                    )
            time.sleep(POLL_SECONDS)
    finally:
        end_processes([process for process, _ in running.values()])


def warmup_arguments(config: Config, slot: Slot) -> list[str]:
    """Return the command line of the warm-up of ``config``, with every parameter that does not concern this process."""
    values = config.values()
    given = {name: values[name] for name, option in stage_options("warmup").items() if not option.reference}
    given["device"] = slot.device
    return [part for name, value in given.items() for part in (f"--{name}", format_value(value))]


def end_processes(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask running processes to stop, and kill those still running after ``GRACE_SECONDS``."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    _wait(processes, GRACE_SECONDS)
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    last = time.monotonic() + seconds
    while time.monotonic() < last and any(process.poll() is None for process in processes):
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return " ".join(log.read_text("utf-8", errors="replace")[-LOG_TAIL:].split()) if log.is_file() else ""


def last_error(log: Path) -> str | None:
    """Return the user error that the process of ``log`` ended with; None if it ended otherwise."""
    prefix = "mm-balance: error: "
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-1].removeprefix(prefix) if lines and lines[-1].startswith(prefix) else None
