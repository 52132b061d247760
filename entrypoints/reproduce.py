"""Entry point `reproduce`: see `python -m entrypoints.reproduce --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["reproduce"]())
