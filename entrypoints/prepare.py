"""Entry point `prepare`: see `python -m entrypoints.prepare --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["prepare"]())
