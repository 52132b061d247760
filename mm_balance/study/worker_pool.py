"""The processes of a study on this machine: started one for each slot, watched, replaced, stopped."""

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
from mm_balance.study.devices import Slot
from mm_balance.study.handle import StudyHandle
from mm_balance.study.storage import new_identity, study_folder
from mm_balance.study.trials import all_trials, count_trials
from mm_balance.study.worker import IDENTITY_VARIABLE, LAUNCHER_VARIABLE
from mm_balance.tracking.lookup import child_environment
from mm_balance.tracking.runs import TrackedRun

POLL_SECONDS = 0.5
GRACE_SECONDS = 60
"""For a process that was asked to stop, to save its checkpoint."""
LOG_TAIL = 2000


@dataclass
class WorkerProcess:
    """A slot and the process that has it now.

    Attributes:
        slot: device, cores.
        log: file of what the processes of this worker print.
        process: the present one.
        identity: its name in the ledger.
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
        slots: one worker each.
        restarts: how many workers that died may be replaced, in all.
    """

    handle: StudyHandle
    slots: Sequence[Slot]
    restarts: int
    workers: list[WorkerProcess] = field(default_factory=list)
    died: int = 0

    def run(self, stop: Callable[[], bool], on_poll: Callable[[], None]) -> None:
        """Until the study has all its trials, or a stop is requested. ``on_poll`` is called again and again meanwhile.

        Raises:
            UserError: a worker met a mistake that the user can put right; or more died than may be replaced.
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
        """End all workers: a signal, time to save, then no more asking."""
        processes = [worker.process for worker in self.workers]
        if self._done():  # they find that out themselves
            _wait(processes, GRACE_SECONDS)
        end(processes)

    def _done(self) -> bool:
        return count_trials(all_trials(self.handle.study)).finished >= self.handle.wanted

    def _replace_dead(self) -> None:
        for index, worker in enumerate(self.workers):
            status = worker.process.poll()
            if status is None or self._done():
                continue
            if status == 1 and (told := last_error(worker.log)):
                raise UserError(told)
            self.died += 1
            how = f"signal {-status}" if status < 0 else f"status {status}"
            if self.died > self.restarts:
                raise UserError(
                    f"worker {worker.slot.label} ended with {how}, and {self.restarts} have been replaced already "
                    f"(worker_restarts); its last words: {_tail(worker.log) or 'none'}"
                )
            print(f"mm-balance: worker {worker.slot.label} ended with {how}; starting another", file=sys.stderr)
            self.workers[index] = self._start(index, worker.slot)

    def _start(self, index: int, slot: Slot) -> WorkerProcess:
        identity = new_identity()
        log = study_folder(self.handle.name) / f"worker-{index}.log"
        words = ["--study_name", self.handle.name, "--storage", self.handle.location, "--device", slot.device]
        environment = {IDENTITY_VARIABLE: identity, LAUNCHER_VARIABLE: str(os.getpid()), "TQDM_DISABLE": "1"}
        environment |= child_environment(self.handle.parent)
        return WorkerProcess(slot, log, start("worker", words, slot, environment, log), identity)


def start(
    entry_point: str, words: Sequence[str], slot: Slot, environment: Mapping[str, str], log: Path | None
) -> subprocess.Popen[bytes]:
    """An entry point as a process of its own, in its slot; it prints to ``log``, or where this process does."""
    root = Path(mm_balance.__file__).parents[1]
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    paths = os.pathsep.join(filter(None, [str(root), inherited.get("PYTHONPATH")]))
    known = {**inherited, "PYTHONPATH": paths, **slot.environment, **environment}
    command = [sys.executable, "-m", f"entrypoints.{entry_point}", *words]
    if log is None:
        return subprocess.Popen(command, env=known, start_new_session=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, env=known, stdout=file, stderr=file, start_new_session=True)


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
                        told = last_error(log) if log else "see above"
                        raise UserError(f"the warm-up failed: {told or f'see {log}'}")
                if index not in running and queue:
                    config = queue.pop(0)
                    log = folder / f"warmup-seed-{config.run.seed}.log" if len(configs) > 1 else None
                    print(f"mm-balance: training the warm-up of seed {config.run.seed}", file=sys.stderr)
                    running[index] = (
                        start("warmup", warmup_words(config, slot), slot, child_environment(parent), log),
                        log,
                    )
            time.sleep(POLL_SECONDS)
    finally:
        end([process for process, _ in running.values()])


def warmup_words(config: Config, slot: Slot) -> list[str]:
    """The command line of the warm-up that ``config`` begins from: every parameter that is not of this process, spelled out."""
    values = config.values()
    words = {name: values[name] for name, option in stage_options("warmup").items() if not option.reference}
    words["device"] = slot.device
    return [word for name, value in words.items() for word in (f"--{name}", format_value(value))]


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask those that still run to stop; kill those that have not after a while."""
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
    """The user's mistake that the process of ``log`` ended with; None where it ended otherwise."""
    mark = "mm-balance: error: "
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-1].removeprefix(mark) if lines and lines[-1].startswith(mark) else None
