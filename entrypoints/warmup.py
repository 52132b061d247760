"""Entry point `warmup`: see `python -m entrypoints.warmup --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["warmup"]())
