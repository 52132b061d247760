"""Entry point `adaptive`: see `python -m entrypoints.adaptive --help`."""

import sys

from mm_balance.workflow.command import command

if __name__ == "__main__":
    sys.exit(command("adaptive"))
