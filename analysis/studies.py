"""Four studies on `digits`, confirmed on new seeds, and the table of what they found; goes on where it was stopped.

    python -m analysis.studies --trials 40 --seeds 5

Each is one ordinary command, printed in the table. Runs go to the MLflow experiment ``studies``. Nothing reads test data.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import campaign
from mm_balance import names
from mm_balance.commands import COMMANDS
from mm_balance.errors import UserError
from mm_balance.study.command import study_name
from mm_balance.tracking.lookup import existing_run
from mm_balance.tracking.query import RunRecord, find_runs

EXPERIMENT = "studies"
SEARCHES = ("anneal", "weights", "anneal_and_weights", "form")


def main() -> None:
    """Run what is missing, write the table."""
    given = campaign.begin(__doc__, EXPERIMENT, seeds=5, trials=40)
    rows = []
    for search in SEARCHES:
        words = study_words(search, given.trials, given.seeds, given.preset, given.processes)
        name = study_name(COMMANDS["study"].parse(words))
        if not _found(name, given.trials, given.seeds):
            subprocess.run([sys.executable, "-m", "entrypoints.study", *words], check=True)
        rows.append(study_row(_found(name, given.trials, given.seeds)[0]))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "studies.md").write_text("\n".join(page(rows)), "utf-8")


def study_words(search: str, trials: int, seeds: int, preset: str, workers: int) -> list[str]:
    """The command line of one study."""
    values = {"search": search, "trials": trials, "confirm_seeds": seeds, "preset": preset, "workers": workers}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def _found(name: str, trials: int, seeds: int) -> list[RunRecord]:
    """Finished runs of the study of that name, which stands for all its settings and the code, with so many trials and seeds."""
    runs = find_runs(campaign.experiment(), {"mm.stage": "study", "mm.study": name})
    return [
        run
        for run in runs
        if sum(run.metrics[f"study/trials_{state}"] for state in ("complete", "pruned", "failed")) >= trials
        and run.tags["study/confirm_seeds"] == str(seeds)
    ]


def study_row(run: RunRecord) -> dict[str, Any]:
    """What one study found, from its run."""
    tracked = existing_run(run.run_id, "run")
    with tempfile.TemporaryDirectory() as folder:
        table = json.loads(tracked.fetch(f"{names.STUDY_TABLE}.json", Path(folder)).read_text("utf-8"))
    settings = tracked.read_json(names.STUDY_SETTINGS)
    try:
        told = tracked.read_json(names.STUDY_CONFIRMATION)
    except UserError:
        told = {}  # the winner is the starting configuration
    trials = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    return {
        "search": run.parameters["study/search"],
        "run": run.run_id,
        **best_and_start(trials, settings["objectives"][0], list(settings["dimensions"])),
        "metrics": run.metrics,
        "confirmation": told,
    }


def best_and_start(trials: Sequence[Mapping[str, Any]], objective: str, dimensions: Sequence[str]) -> dict[str, Any]:
    """``best`` and ``start``, the objective of the best trial and of the starting configuration, and the best one's ``parameters``.

    Only trials trained to their end count: the value of a pruned one is of an earlier epoch. None where there is no such trial.

    Args:
        trials: rows of the study's table of trials.
        objective: its column.
        dimensions: the columns of what was searched.
    """
    complete = [trial for trial in trials if trial["state"] == "COMPLETE"]
    best = max(complete, key=lambda trial: trial[objective], default=None)
    start = next((trial for trial in complete if trial.get("origin") == "configured"), None)
    return {
        "best": best and best[objective],
        "start": start and start[objective],
        "parameters": {name: best[name] for name in dimensions} if best else {},
    }


def page(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as markdown."""
    import torch

    lines = [
        "# Four studies on `digits`",
        "",
        f"Written by `python -m analysis.studies` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, {os.cpu_count()} cores, "
        f"two workers of one thread, torch {torch.__version__}). Validation accuracy in %; the tuning seed is 0; difference on new "
        "seeds: best trial minus starting configuration, mean ± standard deviation, 95 % interval (Student's t). Of new seeds those "
        "count on which both trainings are complete.",
        "",
        "| `search` | measured at | complete / pruned / failed | epochs, of as many full runs | minutes | start | best "
        "| best on new seeds | start on new seeds | difference | best trial |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        metrics, told = row["metrics"], row["confirmation"]
        parameters = ", ".join(f"`{name}={value}`" for name, value in row["parameters"].items())
        cells = [
            f"`{row['search']}`",
            "validation, last epoch",
            " / ".join(f"{metrics[f'study/trials_{state}']:.0f}" for state in ("complete", "pruned", "failed")),
            f"{metrics['study/epochs']:.0f} = {100 * metrics['study/epochs_share']:.0f} %",
            f"{metrics['study/minutes']:.1f}",
            *("not complete" if row[label] is None else f"{100 * row[label]:.1f}" for label in ("start", "best")),
            *(_on_new_seeds(told, label) if told else "" for label in ("best", "start")),
            _difference(told) if told else "",
            parameters,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _on_new_seeds(told: Mapping[str, Any], label: str) -> str:
    """Mean over the seeds on which both trainings are complete, and how many those are where they are not all."""
    pairs = [row[label] for row in told["rows"] if row["difference"] is not None]
    if not pairs:
        return "failed"
    share = "" if len(pairs) == len(told["rows"]) else f" ({len(pairs)} of {len(told['rows'])})"
    return f"{100 * sum(pairs) / len(pairs):.1f}{share}"


def _difference(told: Mapping[str, Any]) -> str:
    """The paired difference; where fewer than two seeds are complete there is none."""
    if "mean" not in told:
        return f"{told['seeds']} of {len(told['rows'])} seeds complete: too few"
    low, high = told["interval"]
    return (
        f"{100 * told['mean']:+.2f} ± {100 * told['std']:.2f} [{100 * low:+.2f}, {100 * high:+.2f}] "
        f"(better on {told['better_on']} of {told['seeds']})"
    )


if __name__ == "__main__":
    main()
