"""Entry point `worker`: see `python -m entrypoints.worker --help`."""

import sys

from mm_balance.study.command import worker

if __name__ == "__main__":
    sys.exit(worker())
