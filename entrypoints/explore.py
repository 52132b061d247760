"""Entry point `explore`: see `python -m entrypoints.explore --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["explore"]())
