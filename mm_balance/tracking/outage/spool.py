"""Operations and their files on disk, in order, until they are delivered."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from mm_balance.errors import UserError
from mm_balance.folders import spool_folder
from mm_balance.redaction import without_credentials
from mm_balance.tracking.outage.operations import Ids, Operation, as_json

OPERATIONS = "operations.jsonl"
DELIVERED = "delivered.json"
REFUSED = "refused.jsonl"
FILES = "files"
IDS = "ids.json"
LOCK = "lock"


def server_folder(uri: str) -> Path:
    """Return the folder of everything that is pending for one server."""
    address = without_credentials(uri).rstrip("/")
    return spool_folder() / sha256(address.encode()).hexdigest()[:16]


class Spool:
    """What one process has logged while a server did not answer; its folder is locked as long as somebody uses it.

    Args:
        folder: the folder of the process, in that of the server.

    Attributes:
        folder: the same.
        files: folder of the files that operations upload: the newest of every path, delivered or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / FILES
        self._lock = FileLock(folder / LOCK)

    @classmethod
    def new(cls, uri: str) -> Spool:
        """Begin the spool of this process."""
        spool = cls(server_folder(uri) / f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            spool.files.mkdir(parents=True)
            (spool.folder.parent / "server.txt").write_text(without_credentials(uri) + "\n", "utf-8")
        except OSError as error:
            raise _full(spool.folder, error) from error
        spool.take()
        return spool

    def take(self) -> bool:
        """Lock the spool; return False if a process that uses it is alive."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Unlock the spool, and remove it if nothing is pending in it."""
        if not self.pending() and not (self.folder / REFUSED).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def append(self, operation: Operation) -> None:
        """Keep an operation, after all others. Raises UserError if the disk is full."""
        line = json.dumps(as_json(operation), ensure_ascii=False) + "\n"
        try:
            with (self.folder / OPERATIONS).open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _full(self.folder, error) from error

    def keep(self, local: Path, run_id: str, folder: str) -> str:
        """Keep a file, instead of an older one of the same path; return its path for an ``Operation``.

        It is linked if it can be, since checkpoints are large: so nobody may write into a file that is logged, only replace it.
        """
        kept = Path(run_id) / folder / local.name
        place = self.files / kept
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            new = place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}")
            try:
                os.link(local, new)
            except OSError:
                shutil.copyfile(local, new)
            os.replace(new, place)
        except OSError as error:
            raise _full(self.folder, error) from error
        return kept.as_posix()

    def pending(self) -> list[Operation]:
        """Return the operations that are not delivered yet, in order."""
        return list(self._operations())[self.delivered() :]

    def delivered(self) -> int:
        """Return the number of operations that are done with."""
        try:
            return int(json.loads((self.folder / DELIVERED).read_text("utf-8")))
        except FileNotFoundError:
            return 0

    def mark_delivered(self, count: int) -> None:
        """Note that the first ``count`` operations are done with."""
        _write(self.folder / DELIVERED, json.dumps(count))

    def refuse(self, operation: Operation, why: str) -> None:
        """Note an operation that the server has refused for good."""
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**as_json(operation), "why": why}, ensure_ascii=False) + "\n")

    def _operations(self) -> Iterator[Operation]:
        path = self.folder / OPERATIONS
        if not path.is_file():
            return
        for line in path.read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a process killed as it wrote leaves the beginning of one
                yield Operation(**json.loads(line))


def left_spools(uri: str) -> list[Spool]:
    """Return the spools for a server whose processes have ended, oldest first, locked."""
    folder = server_folder(uri)
    folders = (path.parent for path in folder.glob(f"*/{FILES}"))
    spools = [Spool(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime)]
    return [spool for spool in spools if spool.take()]


def has_spools(uri: str) -> bool:
    """Return whether a process on this machine, alive or not, has something for a server that it has not delivered yet."""
    return any(Spool(path.parent).pending() for path in server_folder(uri).glob(f"*/{OPERATIONS}"))


def undelivered() -> dict[Path, tuple[str, int]]:
    """Return, by its folder, every spool whose process has ended: address of the server, and number of pending operations."""
    found = {}
    for path in sorted(spool_folder().glob(f"*/*/{FILES}")):
        spool = Spool(path.parent)
        if spool.take():
            count = len(spool.pending())
            spool._lock.release()
            if count:
                found[spool.folder] = (spool.folder.parent / "server.txt").read_text("utf-8").strip(), count
    return found


def read_ids(uri: str) -> Ids:
    """Return the ids that processes on this machine gave what they created while the server did not answer."""
    try:
        return dict(json.loads((server_folder(uri) / IDS).read_text("utf-8")))
    except FileNotFoundError:
        return {}


def add_ids(uri: str, ids: Ids) -> None:
    """Add ids to those of ``read_ids``."""
    folder = server_folder(uri)
    with FileLock(folder / f"{IDS}.lock"):
        _write(folder / IDS, json.dumps(read_ids(uri) | ids, indent=1))


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}-{os.getpid()}")
    new.write_text(text, "utf-8")
    os.replace(new, path)


def _full(folder: Path, error: OSError) -> UserError:
    return UserError(f"what is logged cannot be kept in {folder}: {error.strerror}; what was kept before is not lost")
