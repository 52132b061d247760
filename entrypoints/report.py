"""Entry point `report`: see `python -m entrypoints.report --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["report"]())
