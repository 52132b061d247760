"""Entry point `evaluate`: see `python -m entrypoints.evaluate --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["evaluate"]())
