"""Entry point `train`: see `python -m entrypoints.train --help`."""

import sys

from mm_balance.workflow.command import command

if __name__ == "__main__":
    sys.exit(command("train"))
