"""Entry point `study`: see `python -m entrypoints.study --help`."""

import sys

from mm_balance.study.command import study

if __name__ == "__main__":
    sys.exit(study())
