"""Entry point `prepare`: see `python -m entrypoints.prepare --help`."""

import sys

from mm_balance.workflow.command import command

if __name__ == "__main__":
    sys.exit(command("prepare"))
