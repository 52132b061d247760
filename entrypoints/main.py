"""Entry point `main`: see `python -m entrypoints.main --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["main"]())
