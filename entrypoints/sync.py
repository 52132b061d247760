"""Entry point `sync`: see `python -m entrypoints.sync --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["sync"]())
