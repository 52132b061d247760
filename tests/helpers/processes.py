"""Commands in processes of their own: through `mlflow run`, through `python -m`, or forked from a process that has imported all.

Start as few of the first two as the behavior needs: each costs about six seconds of imports. A forked one is as real a process (it
has its own id, store connections and signals, and can be killed) and starts at once.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

from mm_balance.stopping import LAUNCHER_VARIABLE

ROOT = Path(__file__).parents[2]
USED_BY_STUDIES = "mm_balance.study.worker_pool.start_process"
"""What `study` starts its processes with."""


def environment(folder: Path) -> dict[str, str]:
    """Variables for a process: cache of ``folder``, the store in use or one there, one thread, the code of this checkout."""
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    paths = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db",
        "MM_BALANCE_CACHE": str(folder / "cache"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",  # two threads each on a busy machine only wait for one another
        "PYTHONPATH": paths,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def mlflow_words(entry_point: str, words: str = "", **more: object) -> list[str]:
    """The command line of `mlflow run` for an entry point of this project and ``name=value`` words."""
    given = [*words.split(), *(f"{name}={value}" for name, value in more.items())]
    parameters = [part for word in given for part in ("-P", word)]
    return ["mlflow", "run", str(ROOT), "--env-manager", "local", "-e", entry_point, *parameters]


def mlflow_run(folder: Path, entry_point: str = "main", words: str = "", **more: object) -> subprocess.CompletedProcess:
    """`mlflow run` with the store of ``folder``, in it."""
    return finished(mlflow_words(entry_point, words, **more), folder)


def finished(words: Sequence[str], folder: Path, seconds: float = 300, **variables: str) -> subprocess.CompletedProcess:
    """A program that has ended, with the store of ``folder``, in it."""
    known = environment(folder) | variables
    return subprocess.run(words, env=known, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


class Forked:
    """A forked process, handled as one of ``subprocess``.

    Attributes:
        pid: its number.
        log: file of what it prints.
    """

    def __init__(
        self, target: Callable[..., Any], words: Sequence[Any], known: Mapping[str, str], folder: Path, log: Path
    ):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._process = _server().Process(target=_begin, args=(target, words, dict(known), str(folder), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self.returncode is not None, f"it has not ended after {timeout} s: {self.said()}"
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace") if self.log.is_file() else ""


class Spawned:
    """A program that has been started, with the store of ``store``, in it or in ``folder``; handled as a forked process is."""

    def __init__(self, words: Sequence[str], store: Path, folder: Path | None = None):
        self.log = store / f"said-{time.monotonic_ns()}.log"
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                words, env=environment(store), cwd=folder or store, stdout=file, stderr=file, start_new_session=True
            )
        self.pid = self._process.pid
        self.poll, self.wait = self._process.poll, self._process.wait
        self.send_signal, self.kill = self._process.send_signal, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")


def python_words(entry_point: str, words: Sequence[str]) -> list[str]:
    """The command line of an entry point without `mlflow run`."""
    return [sys.executable, "-m", f"entrypoints.{entry_point}", *words]


def start_command(
    store: Path, entry_point: str, words: Sequence[str], *, forked: bool = True, folder: Path | None = None
) -> Forked | Spawned:
    """An entry point in a process of its own, in a session of its own, with the store of ``store``, in it or in ``folder``."""
    if not forked:
        return Spawned(python_words(entry_point, words), store, folder)
    log = store / f"{entry_point}-{time.monotonic_ns()}.log"
    return Forked(_call, (entry_point, list(words)), environment(store), folder or store, log)


def session_of(pid: int) -> list[int]:
    """Ids of the living processes of the session that ``pid`` began (where the system tells)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


class Fate(NamedTuple):
    """What a process of a study does when it plans its n-th epoch: it sends a signal, to itself or to the study's command."""

    epoch: int
    signal: int
    to_launcher: bool = False


fates: list[Fate] = []
"""Of the next processes that studies of this process start to work, one each; those after them live as usual."""


def start_forked(
    entry_point: str, words: Sequence[str], slot: Any, variables: Mapping[str, str], log: Path | None
) -> Forked:
    """What a study uses to start its processes, with forked ones: same arguments, same handling."""
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    known = {**inherited, **slot.environment, **variables}
    place = log or Path(known["MM_BALANCE_CACHE"]) / f"{entry_point}-{time.monotonic_ns()}.log"
    fate = fates.pop(0) if fates and entry_point == "worker" else None
    return Forked(_call, (entry_point, list(words), fate, os.getpid()), known, ROOT, place)


def _begin(target: Callable[..., Any], words: Sequence[Any], known: dict[str, str], folder: str, log: str) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(known)
    if LAUNCHER_VARIABLE in known:  # the parent of a forked process is the server that it was forked from
        os.environ[LAUNCHER_VARIABLE] = str(os.getppid())
    os.chdir(folder)
    sys.path.insert(0, folder)  # as `python -m` does
    import torch

    torch.set_num_threads(int(known.get("OMP_NUM_THREADS", "1")))
    sys.exit(target(*words))


def _call(entry_point: str, words: list[str], fate: Fate | None = None, launcher: int = 0) -> int:
    import mlflow

    from tests.helpers.commands import call

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    if fate is not None:
        in_epoch(fate.epoch, lambda: os.kill(launcher if fate.to_launcher else os.getpid(), fate.signal), _forever)
    return call(entry_point, words)


def _forever(target: Any, name: str, value: Any) -> None:
    setattr(target, name, value)


def in_epoch(number: int, act: Callable[[], Any], setattr: Callable[[Any, str, Any], Any]) -> None:
    """Have this process ``act`` when it begins the n-th epoch that it trains from now on, whatever it trains."""
    from mm_balance.engine import loop

    plan, begun = loop.plan_epoch, itertools.count(1)

    def planned(*words: Any) -> Any:
        if next(begun) == number:
            act()
        return plan(*words)

    setattr(loop, "plan_epoch", planned)


_ready = False


def _server() -> Any:
    """The context of processes forked from one that has imported all that commands need, and made the embedded data."""
    global _ready
    context = multiprocessing.get_context("forkserver")
    if not _ready:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # one that began without them
        context.set_forkserver_preload(["tests.helpers.preload"])
        before = os.environ.copy()
        os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked safely
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH")]))
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
        _ready = True
    return context


def wait_for(seen: Callable[[], Any], process: Any, seconds: float = 300) -> Any:
    """What ``seen`` gives once it gives something; an error where ``process`` ends before."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        if found := seen():
            return found
        assert process.poll() is None, "it ended before"
        time.sleep(0.05)
    raise AssertionError("it never got there")
