"""Entry point `main`: see `python -m entrypoints.main --help`."""

import sys

from mm_balance.workflow.command import command

if __name__ == "__main__":
    sys.exit(command("main"))
