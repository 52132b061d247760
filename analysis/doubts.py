"""What the rules of `posterior_discount` do, on validation: each rule alone and together. An interrupted command resumes.

    python -m analysis.doubts --processes 2
    python -m analysis.doubts --grid PATH/manifest.csv

The options of the method were chosen by such trials. Seeds are those of the choice; the tables of `analysis.regimes` have others. All
rows have the same unimodal weight. Test data are not read.

Cost on 2 cores, two processes of one thread: about half an hour on `digits` and a quarter of an hour on GRID letters. Runs go to the
MLflow experiment ``doubts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import campaign, regimes
from analysis.regimes import CONTROL, OURS, Task
from analysis.tables import difference, finished_run, spread

EXPERIMENT = "doubts"
SEEDS = {"digits": range(31, 34), regimes.GRID: range(51, 55)}
"""Data set -> seeds of the choice."""
REGIMES = ("digits 40 % corrupted", "digits 10 % corrupted", "digits clean", "grid 40 % mismatched", "grid clean")
NO_MARGIN = "no margin"
DEFAULT = "margin 1 (default)"
ROWS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    CONTROL: (CONTROL, {}),
    "loss_mixture: no gap, no margin": ("loss_mixture", {}),
    NO_MARGIN: (OURS, {"margin": 0.0}),
    "margin 0.5": (OURS, {"margin": 0.5}),
    DEFAULT: (OURS, {}),
    "margin 2": (OURS, {"margin": 2.0}),
    "one epoch earlier": (OURS, {"start_epoch": 2}),
    "persistence 3": (OURS, {"persistence": 3}),
    "70 % of a doubted loss": (OURS, {"discount": 0.7}),
}
"""Row -> method and options that differ from its defaults."""
WEIGHT = 4.0
"""Unimodal weight of all rows."""
MODALITIES = ("audio", "visual")


def main() -> None:
    """Train what is missing, regime by regime, and write the page after each."""
    arguments = campaign.start_campaign(__doc__, EXPERIMENT, seeds=0, regimes="all", grid="none")
    names = [name for name in REGIMES if arguments.grid != "none" or not name.startswith(regimes.GRID)]
    if arguments.regimes != "all":
        names = [name.strip() for name in arguments.regimes.split(",")]
    settings = {name: regimes.regime_settings(name, arguments.grid, arguments.preset) for name in names}
    for name, base in settings.items():
        tasks = tasks_of(name, base)
        digests = regimes.run_tasks(tasks, arguments.processes)
        frame = collect({task: digests[task] for task in tasks})
        path = arguments.out / "doubts.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = campaign.replace_rows(frame, path, ["regime"])
        frame.to_csv(path, index=False)
        (arguments.out / "doubts.md").write_text("\n".join(page(frame)), "utf-8")


def tasks_of(regime: str, base: Mapping[str, Any]) -> list[Task]:
    """Return the trials of a regime: all rows at all seeds of its data set."""
    seeds = SEEDS[regime.split()[0]]
    return [
        Task(regime, seed, tuple(sorted({**base, "unimodal_weight": WEIGHT, **more}.items())), method, row, test=False)
        for row, (method, more) in ROWS.items()
        for seed in seeds
    ]


def collect(digests: Mapping[Task, str]) -> pd.DataFrame:
    """Collect one line per trial: validation accuracy after the last epoch and, where it doubts, its doubts at the last refit.

    Columns ``doubt_<modality>`` (mean over all samples) and, where corruption was planted, ``clean_<modality>`` and
    ``corrupted_<modality>`` (means over these).
    """
    lines = []
    for task, settings in digests.items():
        run = finished_run(campaign.experiment(), task.row, task.seed, settings)
        assert run is not None, f"{task.row} was not trained"
        line = {"regime": task.regime, "row": task.label, "seed": task.seed, "accuracy": run.metrics["val/accuracy"]}
        for modality in MODALITIES:
            for name, metric in (
                ("doubt", "method/doubt_"), ("clean", "truth/doubt_clean_"), ("corrupted", "truth/doubt_corrupted_")
            ):  # fmt: skip
                line[f"{name}_{modality}"] = run.metrics.get(f"{metric}{modality}", float("nan"))
        lines.append({**line, "run": run.run_id})
    return pd.DataFrame(lines)


def page(frame: pd.DataFrame) -> list[str]:
    """Write the trials as markdown."""
    lines = [
        "# The two rules of `posterior_discount`",
        "",
        "Made by `python -m analysis.doubts`, from `doubts.csv`; do not edit. Validation accuracy in percent after the last epoch, "
        "mean ± standard deviation over seeds, and the difference to the control, paired by seed, in points, with its 95 % "
        "t-interval. *Doubt*: mean over the training samples in the last epoch, of sounds and of images; where corruption was "
        f"planted, of clean samples -> of those corrupted in that modality. Unimodal weight {WEIGHT:g} in all rows.",
    ]
    for regime in dict.fromkeys(frame["regime"]):
        part = frame[frame["regime"] == regime]
        lines += [
            "",
            f"## {regime}",
            "",
            "| row | n | fused | - control | doubt about audio | doubt about visual |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for row in [name for name in ROWS if name in set(part["row"])]:
            own = part[part["row"] == row]
            cells = [
                row, str(len(own)), spread(own["accuracy"], 100), difference(part, row, CONTROL, "accuracy"),
                *(_doubt(own, modality) for modality in MODALITIES),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _doubt(own: pd.DataFrame, modality: str) -> str:
    mean, clean, corrupted = (own[f"{name}_{modality}"].mean() for name in ("doubt", "clean", "corrupted"))
    if pd.isna(mean):
        return ""
    return f"{mean:.3f}" if pd.isna(corrupted) else f"{clean:.3f} -> {corrupted:.2f}"


if __name__ == "__main__":
    main()
