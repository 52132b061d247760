"""Entry point `train`: see `python -m entrypoints.train --help`."""

import sys

from mm_balance.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(COMMANDS["train"]())
