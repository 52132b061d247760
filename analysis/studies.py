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
from mm_balance.tracking.query import RunRecord, find_runs
from mm_balance.tracking.runs import existing_run

EXPERIMENT = "studies"
SEARCHES = ("anneal", "weights", "anneal_and_weights", "form")


def main() -> None:
    """Run what is missing, write the table."""
    given = campaign.begin(__doc__, EXPERIMENT, seeds=5, trials=40)
    for search in SEARCHES:
        if not _found(search, given.trials, given.seeds):
            words = study_words(search, given.trials, given.seeds, given.preset, given.processes)
            subprocess.run([sys.executable, "-m", "entrypoints.study", *words], check=True)
    rows = [study_row(_found(search, given.trials, given.seeds)[0]) for search in SEARCHES]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "studies.md").write_text("\n".join(page(rows)), "utf-8")


def study_words(search: str, trials: int, seeds: int, preset: str, workers: int) -> list[str]:
    """The command line of one study."""
    values = {"search": search, "trials": trials, "confirm_seeds": seeds, "preset": preset, "workers": workers}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def _found(search: str, trials: int, seeds: int) -> list[RunRecord]:
    """Finished runs of that study with so many trials and seeds, the newest first."""
    runs = find_runs(campaign.experiment(), {"mm.stage": "study"})
    return [
        run
        for run in runs
        if run.parameters["study/search"] == search
        and sum(run.metrics[f"study/trials_{state}"] for state in ("complete", "pruned", "failed")) >= trials
        and run.parameters["study/confirm_seeds"] == str(seeds)
    ]


def study_row(run: RunRecord) -> dict[str, Any]:
    """What one study found, from its run."""
    with tempfile.TemporaryDirectory() as folder:
        tracked = existing_run(run.run_id, "run")
        table = json.loads(tracked.fetch(f"{names.STUDY_TABLE}.json", Path(folder)).read_text("utf-8"))
        trials = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
        settings = tracked.read_json(names.STUDY_SETTINGS)
        objective = settings["objectives"][0]
        complete = [trial for trial in trials if trial["state"] == "COMPLETE"]
        best = max(complete, key=lambda trial: trial[objective])
        told = tracked.read_json(names.STUDY_CONFIRMATION) if "study/confirmed_difference" in run.metrics else {}
    return {
        "search": run.parameters["study/search"],
        "run": run.run_id,
        "best": best[objective],
        "start": trials[0][objective],
        "parameters": {name: best[name] for name in settings["dimensions"]},
        "metrics": run.metrics,
        "confirmation": told,
    }


def page(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as markdown."""
    import torch

    lines = [
        "# Four studies on `digits`",
        "",
        f"Written by `python -m analysis.studies` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, {os.cpu_count()} cores, "
        f"two workers of one thread, torch {torch.__version__}). Validation accuracy in %; the tuning seed is 0; difference on new "
        "seeds: best trial minus starting configuration, mean ± standard deviation, 95 % interval (Student's t).",
        "",
        "| `search` | complete / pruned / failed | epochs, of as many full runs | minutes | start | best | best on new seeds "
        "| start on new seeds | difference | best trial |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        metrics, told = row["metrics"], row["confirmation"]
        means = {
            label: sum(item[label] for item in told["rows"]) / len(told["rows"]) for label in ("best", "start")
        } if told else {}  # fmt: skip
        parameters = ", ".join(f"`{name}={value}`" for name, value in row["parameters"].items())
        cells = [
            f"`{row['search']}`",
            " / ".join(f"{metrics[f'study/trials_{state}']:.0f}" for state in ("complete", "pruned", "failed")),
            f"{metrics['study/epochs']:.0f} = {100 * metrics['study/epochs_share']:.0f} %",
            f"{metrics['study/minutes']:.1f}",
            f"{100 * row['start']:.1f}",
            f"{100 * row['best']:.1f}",
            *(f"{100 * means[label]:.1f}" if means else "" for label in ("best", "start")),
            _difference(told) if told else "",
            parameters,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _difference(told: Mapping[str, Any]) -> str:
    low, high = told["interval"]
    return (
        f"{100 * told['mean']:+.2f} ± {100 * told['std']:.2f} [{100 * low:+.2f}, {100 * high:+.2f}] "
        f"(better on {told['better_on']} of {told['seeds']})"
    )


if __name__ == "__main__":
    main()
