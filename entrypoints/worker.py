"""Entry point `worker`: see `python -m entrypoints.worker --help`."""

import sys

from mm_balance.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("worker"))
