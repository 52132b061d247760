"""Entry point `study`: see `python -m entrypoints.study --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["study"]())
