"""Registry of commands by name."""

from __future__ import annotations

from collections.abc import Sequence

from mm_balance.commands import adaptive, evaluate, main, prepare, study, train, warmup, worker
from mm_balance.commands.command import Command

COMMANDS: dict[str, Command] = {
    module.COMMAND.name: module.COMMAND for module in (main, warmup, adaptive, train, evaluate, prepare, study, worker)
}


def run_command(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command ``name`` (key of ``COMMANDS``) and return its exit status, see ``Command``."""
    return COMMANDS[name](arguments)
