"""Cut single words out of the GRID corpus, each with a crop of the talker's mouth.

    python tools/cut_grid.py /path/GRID /path/grid_digits --slot digit

`mlflow run . -e prepare -P dataset=grid -P source=/path/GRID` does this for letters with the defaults. Use this script for another
word of the sentence, or another crop, and then give its folder as the source:

    mlflow run . --env-manager local -e prepare -P dataset=grid -P source=/path/grid_digits

An interrupted call is continued by the same command. Exit status 1: some sentences could not be cut; they are printed, and all
others are done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mm_balance.data.grid_words import Cut, cut_words
from mm_balance.data.readers.grid import FAILURES, MANIFEST, SLOTS
from mm_balance.errors import UserError

SHOWN = 10
"""Failures that are printed; all are in a file."""


def main(arguments: list[str] | None = None) -> int:
    """Cut, print what could not be cut, and return the exit status."""
    default = Cut()
    parser = argparse.ArgumentParser(description="Cut single words out of the GRID corpus, with a crop of the mouth.")
    parser.add_argument("source", type=Path, help="folder of the corpus: videos and alignments, in any of its layouts")
    parser.add_argument("target", type=Path, help="folder of the words")
    parser.add_argument("--slot", choices=tuple(SLOTS), default=default.slot, help="which word (%(default)s)")
    parser.add_argument(
        "--margin", type=float, default=default.margin, help="seconds before and after the word (%(default)s)"
    )
    parser.add_argument(
        "--crop",
        type=float,
        default=default.crop,
        help="side of the square, as a share of the frame's height (%(default)s)",
    )
    parser.add_argument("--edge", type=int, default=default.edge, help="its side in the result, pixels (%(default)s)")
    parser.add_argument(
        "--mouth",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        help="center of all mouths, in shares of width and height (default: found for each talker)",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    given = parser.parse_args(arguments)
    if given.margin < 0 or not 0 < given.crop <= 1 or given.edge < 8 or given.edge % 2:
        parser.error("give margin >= 0, crop above 0 and at most 1, and an even edge of at least 8")
    if given.mouth and not all(0 <= share <= 1 for share in given.mouth):
        parser.error("--mouth takes two shares between 0 and 1")
    mouth = (given.mouth[0], given.mouth[1]) if given.mouth else None
    cut = Cut(given.slot, given.margin, given.crop, given.edge, mouth)
    try:
        failures = cut_words(given.source, given.target, cut, workers=given.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in failures[:SHOWN]:
        print(line)
    if failures:
        print(f"{len(failures):,} sentence(s) could not be cut: {given.target / FAILURES}")
    print(f"manifest: {given.target / MANIFEST}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
