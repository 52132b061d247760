"""Entry point `repair`: see `python -m entrypoints.repair --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["repair"]())
