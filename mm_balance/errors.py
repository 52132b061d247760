"""User-facing errors and cooperative interruption.

Every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence

from mm_balance.redaction import redact

REASON_LENGTH = 500
NEEDS_CLASSES = (
    "The method needs classes: a gap is a difference of probabilities of the true class (regression is not supported)"
)
NO_TRUE_CLASS = (
    "no true class, so it has no gap; leave such samples out, or give them a class of their own, as `none of these`"
)
MAKE_ROOM = "make room, or check the permissions"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class UserError(Exception):
    """An error the user can fix: a bad value, a missing file, an unsuitable run.

    The message is one line: what is wrong, where (file, line, sample, parameter) and what to do. Entry points print it and exit
    with status 1, before any training if possible.
    """


class Diverged(UserError):
    """The training loss or a weight is no longer finite."""


class Unwritable(UserError):
    """A disk or a database cannot be written: it is full, read-only or not permitted. What was written before is kept."""


class Interrupted(Exception):
    """Work was stopped on request, with its state saved."""


def one_line(message: str) -> str:
    """Return a message as one line without credentials; characters that a terminal would obey are spelled out."""
    line = redact(" ".join(message.split()))
    return "".join(item if item.isprintable() else item.encode("unicode_escape").decode() for item in line)


def reason(error: BaseException, *, with_type: bool = False) -> str:
    """Return an error as one line of at most 500 characters, without credentials, for tags and tables.

    Args:
        error: the error.
        with_type: whether the line begins with the error's type; it does so, too, if the error has no text.
    """
    text = one_line(str(error))
    name = type(error).__name__
    return (f"{name}: {text}" if with_type else text or name)[:REASON_LENGTH]


def why_unwritable(error: BaseException) -> str:
    """Return why a file could not be written, with its name if it is known: the disk is full, ...; empty = for another reason."""
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE:
        return ""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def did_you_mean(text: str, known: Sequence[str]) -> str:
    """Return `` (did you mean x?)`` if a known word is close, else an empty string."""
    close = difflib.get_close_matches(text, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
