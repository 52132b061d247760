"""Writes docs/reliability.md from what `make verify` has recorded: every fault, how often it was tried, what was lost.

python -m analysis.reliability FAULTS.jsonl > docs/reliability.md
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import torch

HEAD = """# Reliability

What was done to MM-Balance, how often, and what became of it. `make verify` does it all and writes this page; every fault is a test
under `tests/`, with a fixed seed. *Survived* means: after the fault, the command that the terminal names, or the same command again,
gives what an undisturbed one gives (metrics equal to the last bit, every point and every artifact once). *Lost* counts tries after
which that was not so; it must be 0. For nonsense, survived means understood or refused in one line.
"""


TABLE = ("| fault | tries | survived | lost | the user sees |", "|---|--:|--:|--:|---|")


def read(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Read the recorded tries, one JSON object a line; a line that a killed process has left half written is skipped."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def page(tries: Iterable[Mapping[str, Any]], circumstances: str) -> str:
    """Return the page.

    Args:
        tries: what ``tests.helpers.faults.record`` has written.
        circumstances: when and where, in one sentence.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sees: dict[str, list[str]] = defaultdict(list)
    for item in tries:
        counts[item["fault"]].update({name: item[name] for name in ("tries", "survived", "lost")})
        if item["sees"] not in sees[item["fault"]]:
            sees[item["fault"]].append(item["sees"])
    rows = [
        f"| {_cell(fault)} | {count['tries']:,} | {count['survived']:,} | {count['lost']:,} | {_cell('; '.join(sees[fault]))} |"
        for fault, count in sorted(counts.items())
    ]
    total = sum(counts.values(), Counter())
    rows.append(f"| **all** | {total['tries']:,} | {total['survived']:,} | {total['lost']:,} | |")
    return "\n".join(
        [
            HEAD,
            circumstances,
            "",
            "| fault | tries | survived | lost | the user sees |",
            "|---|--:|--:|--:|---|",
            *rows,
            "",
        ]
    )


def here() -> str:
    """Return when and where this is."""
    return (
        f"Written on {date.today():%Y-%m-%d} on {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, MLflow {mlflow.__version__}."
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(read(Path(sys.argv[1]).read_text("utf-8").splitlines()), here()), end="")
