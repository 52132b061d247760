"""Entry point `adaptive`: see `python -m entrypoints.adaptive --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["adaptive"]())
