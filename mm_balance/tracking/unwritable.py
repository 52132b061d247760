"""A store that cannot be written, because a disk is full or read-only: one line instead of the libraries' many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mm_balance.errors import MAKE_ROOM, Unwritable, why_unwritable
from mm_balance.redaction import redact

_DATABASE_REASONS = (
    "database or disk is full",
    "attempt to write a readonly database",
    "disk I/O error",
    "unable to open database file",
    "database is locked",
    "No space left on device",
    "read-only transaction",
)
"""What SQLite and PostgreSQL say when they cannot write."""


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise ``Unwritable`` where the body fails because the store or a disk cannot be written.

    Args:
        what: what is written, for the message.
    """
    try:
        yield
    except (OSError, MlflowException, SQLAlchemyError) as error:
        why, place = why_unwritable(error), ""
        if not why:
            why = next((words for words in _DATABASE_REASONS if words in str(error)), "")
            place = f" to {redact(mlflow.get_tracking_uri())}"
        if not why:
            raise
        raise Unwritable(f"{what} cannot be written{place} ({why}); {MAKE_ROOM}") from error
