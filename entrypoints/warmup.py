"""Entry point `warmup`: see `python -m entrypoints.warmup --help`."""

import sys

from mm_balance.workflow.command import command

if __name__ == "__main__":
    sys.exit(command("warmup"))
