"""Something that a killed process has left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something found.

    Attributes:
        what: what it is, as the beginning of a sentence.
        done: what closing it does, in the past tense: ``closed``, ``removed``, ``failed and queued again``; empty = it is left.
        then: what the user can do; empty = nothing.
        close: closes it; None = it is left alone.
    """

    what: str
    done: str = ""
    then: str = ""
    close: Callable[[], object] | None = None

    def line(self, *, dry_run: bool) -> str:
        """Return it as one line."""
        fate = "left" if self.close is None else f"would be {self.done}" if dry_run else self.done
        return f"{self.what}: {fate}" + (f"; {self.then}" if self.then else "")
