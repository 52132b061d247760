"""Entry point `worker`: see `python -m entrypoints.worker --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["worker"]())
