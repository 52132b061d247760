"""Entry point `evaluate`: see `python -m entrypoints.evaluate --help`."""

import sys

from mm_balance.workflow.command import command

if __name__ == "__main__":
    sys.exit(command("evaluate"))
