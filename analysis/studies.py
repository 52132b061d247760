"""Four studies on `digits`, confirmed on new seeds, and the table of their results. An interrupted command resumes.

    python -m analysis.studies --trials 40 --seeds 5

Each study is one ordinary command, printed in the table. Runs go to the MLflow experiment ``studies``. Test data are never read.
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
    """Run missing studies, write the table."""
    given = campaign.start_campaign(__doc__, EXPERIMENT, seeds=5, trials=40)
    rows = []
    for search in SEARCHES:
        arguments = study_arguments(search, given.trials, given.seeds, given.preset, given.processes)
        name = study_name(COMMANDS["study"].parse(arguments).given)
        if not _finished_studies(name, given.trials, given.seeds):
            subprocess.run([sys.executable, "-m", "entrypoints.study", *arguments], check=True)
        rows.append(study_row(_finished_studies(name, given.trials, given.seeds)[0]))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "studies.md").write_text("\n".join(page(rows)), "utf-8")


def study_arguments(search: str, trials: int, seeds: int, preset: str, workers: int) -> list[str]:
    """Return the command-line arguments of one study."""
    values = {"search": search, "trials": trials, "confirm_seeds": seeds, "preset": preset, "workers": workers}
    return [argument for name, value in values.items() for argument in (f"--{name}", str(value))]


def _finished_studies(name: str, trials: int, seeds: int) -> list[RunRecord]:
    """Find runs of the study ``name`` (which encodes its settings and the code) with at least that many trials and those seeds."""
    runs = find_runs(campaign.experiment(), {"mm.stage": "study", "mm.study": name})
    return [
        run
        for run in runs
        if sum(run.metrics[f"study/trials_{state}"] for state in ("complete", "pruned", "failed")) >= trials
        and run.tags["study/confirm_seeds"] == str(seeds)
    ]


def study_row(run: RunRecord) -> dict[str, Any]:
    """Read the results of one study from its run."""
    tracked = existing_run(run.run_id, "run")
    with tempfile.TemporaryDirectory() as folder:
        table = json.loads(tracked.fetch(f"{names.STUDY_TABLE}.json", Path(folder)).read_text("utf-8"))
    settings = tracked.read_json(names.STUDY_SETTINGS)
    try:
        confirmation = tracked.read_json(names.STUDY_CONFIRMATION)
    except UserError:
        confirmation = {}  # the winner is the starting configuration
    trials = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    return {
        "search": run.parameters["study/search"],
        "run": run.run_id,
        **best_and_start(trials, settings["objectives"][0], list(settings["dimensions"])),
        "metrics": run.metrics,
        "confirmation": confirmation,
    }


def best_and_start(trials: Sequence[Mapping[str, Any]], objective: str, dimensions: Sequence[str]) -> dict[str, Any]:
    """Return the objective of the best trial (``best``) and of the starting configuration (``start``), and ``parameters`` of the best.

    Only complete trials count: the value of a pruned one is from an earlier epoch. None if there is no such trial.

    Args:
        trials: rows of the study's table of trials.
        objective: column of the objective.
        dimensions: columns of the searched parameters.
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
    """Render the table as markdown."""
    import torch

    lines = [
        "# Four studies on `digits`",
        "",
        f"Written by `python -m analysis.studies` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, {os.cpu_count()} cores, "
        f"two workers of one thread, torch {torch.__version__}). Validation accuracy in %; the tuning seed is 0; difference on new "
        "seeds: best trial minus starting configuration, mean ± standard deviation, 95 % interval (Student's t). New seeds count only "
        "if both runs are complete.",
        "",
        "| `search` | measured at | complete / pruned / failed | epochs, of as many full runs | minutes | start | best "
        "| best on new seeds | start on new seeds | difference | best trial |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        metrics, confirmation = row["metrics"], row["confirmation"]
        parameters = ", ".join(f"`{name}={value}`" for name, value in row["parameters"].items())
        cells = [
            f"`{row['search']}`",
            "validation, last epoch",
            " / ".join(f"{metrics[f'study/trials_{state}']:.0f}" for state in ("complete", "pruned", "failed")),
            f"{metrics['study/epochs']:.0f} = {100 * metrics['study/epochs_share']:.0f} %",
            f"{metrics['study/minutes']:.1f}",
            *("not complete" if row[label] is None else f"{100 * row[label]:.1f}" for label in ("start", "best")),
            *(_on_new_seeds(confirmation, label) if confirmation else "" for label in ("best", "start")),
            _difference(confirmation) if confirmation else "",
            parameters,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _on_new_seeds(confirmation: Mapping[str, Any], label: str) -> str:
    """Format the mean over seeds with both runs complete, and their number if some are missing."""
    rows = confirmation["rows"]
    values = [row[label] for row in rows if row["difference"] is not None]
    if not values:
        return "failed"
    share = "" if len(values) == len(rows) else f" ({len(values)} of {len(rows)})"
    return f"{100 * sum(values) / len(values):.1f}{share}"


def _difference(confirmation: Mapping[str, Any]) -> str:
    """Format the paired difference; it needs at least two complete seeds."""
    if "mean" not in confirmation:
        return f"{confirmation['seeds']} of {len(confirmation['rows'])} seeds complete: too few"
    low, high = confirmation["interval"]
    return (
        f"{100 * confirmation['mean']:+.2f} ± {100 * confirmation['std']:.2f} [{100 * low:+.2f}, {100 * high:+.2f}] "
        f"(better on {confirmation['better_on']} of {confirmation['seeds']})"
    )


if __name__ == "__main__":
    main()
