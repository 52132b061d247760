"""Regimes of broken data: control, rivals and `posterior_discount`, each tuned alike in every regime. An interrupted command resumes.

    python -m analysis.regimes --processes 2
    python -m analysis.regimes --regimes "grid clean,grid 40 % mismatched" --grid PATH/manifest.csv

A regime is a data set whose training split is corrupted in one way (validation and test never are). All rows of a regime and seed
start from the same warm-up. In each regime every method with a unimodal weight is tried with the same four on validation, by the mean
over two seeds of their own (the learning rate is the preset's); joint training has nothing to tune. Test data are
read once per finished run, for the table only. Seeds start at ``--first_seed``: 7000 and above were never used before, neither for
tuning nor for design.

Cost on 2 cores, two processes of one thread: about 0.6 hours a regime on `digits` and 0.3 on GRID letters. Runs go to the MLflow
experiment ``regimes``. The table keeps the regimes and rows that a call does not name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from analysis import campaign
from analysis.tables import difference, spread, table_runs
from mm_balance.config import Config
from mm_balance.config.resolve import PRESETS
from mm_balance.errors import UserError
from mm_balance.functional.metrics import holm, paired_p_value
from mm_balance.reproduction import tables
from mm_balance.reproduction.plan import of_warmup

EXPERIMENT = "regimes"
FIRST_SEED = 7000
TUNING_SEEDS = (campaign.TUNING_SEED, campaign.TUNING_SEED + 1)
CONTROL, OURS = "concat_unimodal", "posterior_discount"
SHUFFLED = f"{OURS}, shuffled"
DIGITS = {"dataset": "digits", "corruption": 0.0}
GRID = "grid"
"""Prefix of the regimes on GRID letters, whose manifest the user names."""
REGIMES: Mapping[str, Mapping[str, Any]] = {
    **{f"digits {name}": {**DIGITS, **settings} for name, settings in tables.REGIMES["digits"].items()},
    "digits 20 % corrupted": {**DIGITS, "corruption": 0.2},
    "digits 20 % of the data": {**DIGITS, "train_fraction": 0.2},
    **{f"{GRID} {name}": settings for name, settings in tables.REGIMES["grid"].items()},
}
"""Name -> parameters that differ from the preset."""
WEIGHTS = (0.25, 1.0, 4.0, 16.0)
"""Unimodal weights that every method is tried with. At 64 all of them failed on `digits`."""
TUNED = (CONTROL, "gce", "loss_mixture", "gap_mixture", "purified", OURS)
UNTUNED = ("concat",)
COLUMNS = {"accuracy": "fused", "accuracy_audio": "audio", "accuracy_visual": "visual"}


@dataclass(frozen=True)
class Task:
    """One training run: a row of a regime at a seed, or (``method`` empty) the warm-up that its rows share."""

    regime: str
    seed: int
    settings: tuple[tuple[str, Any], ...]
    method: str = ""
    label: str = ""
    test: bool = True

    @property
    def row(self) -> str:
        """Name of the row among all regimes; empty for a warm-up."""
        return f"{self.regime}: {self.label}" if self.method else ""


def main() -> None:
    """Tune and train what is missing, regime by regime, and write the table after each."""
    arguments = campaign.start_campaign(
        __doc__, EXPERIMENT, seeds=5, first_seed=FIRST_SEED, regimes="all", grid="none",
        methods=",".join([*UNTUNED, *TUNED]),
    )  # fmt: skip
    # All settings first: a wrong name must not end the command after hours.
    settings = {
        name: regime_settings(name, arguments.grid, arguments.preset)
        for name in _named(arguments.regimes, with_grid=arguments.grid != "none")
    }
    for regime, base in settings.items():
        started = time.time()
        frame = run_regime(
            regime, base, arguments.methods.split(","), range(arguments.first_seed, arguments.first_seed + arguments.seeds),
            arguments.processes,
        )  # fmt: skip
        frame["hours"] = (time.time() - started) / 3600
        write(frame, arguments.out)


def _named(regimes: str, *, with_grid: bool) -> list[str]:
    """Return the names of regimes; ``all`` leaves those on GRID letters out unless their manifest is given."""
    if regimes != "all":
        return [name.strip() for name in regimes.split(",")]
    return [name for name in REGIMES if with_grid or not name.startswith(GRID)]


def regime_settings(regime: str, grid: str, preset: str) -> dict[str, Any]:
    """Return the parameters of a regime's data.

    Args:
        regime: its name.
        grid: manifest of GRID letters, or ``none``.
        preset: value of ``--preset``.

    Raises:
        UserError: no such regime, or it needs the manifest.
    """
    if regime not in REGIMES:
        raise UserError(f"regime {regime!r} is not known; there are: {', '.join(REGIMES)}")
    settings = {**REGIMES[regime]} if preset == "auto" else {**REGIMES[regime], "preset": preset}
    if not regime.startswith(GRID):
        return settings
    if grid == "none":
        raise UserError(f"{regime!r} needs --grid PATH, the manifest of GRID letters (docs/data.md says how to get it)")
    return {"preset": str(PRESETS / f"{GRID}.yaml"), **settings, "dataset": grid}


def run_regime(
    regime: str, base: Mapping[str, Any], methods: Sequence[str], seeds: Sequence[int], processes: int
) -> pd.DataFrame:
    """Tune and train the rows of one regime.

    Args:
        regime: its name.
        base: parameters of its data.
        methods: names of methods.
        seeds: seeds of the table.
        processes: number of runs at a time.

    Returns:
        One line per row and seed, see ``collect``.
    """
    tuned = [method for method in methods if method in TUNED]

    def task(method: str, weight: float | None, seed: int, label: str, *, test: bool = True, **more: Any) -> Task:
        settings = {**base, **more} if weight is None else {**base, **more, "unimodal_weight": weight}
        return Task(regime, seed, tuple(sorted(settings.items())), method, label, test)

    weights = _tuned_weights(
        {
            (method, weight): [
                task(method, weight, seed, f"tuning {method} {weight:g}", test=False) for seed in TUNING_SEEDS
            ]
            for method in tuned
            for weight in WEIGHTS
        },
        processes,
    )
    rows = [
        *(task(method, None, seed, method) for method in methods if method in UNTUNED for seed in seeds),
        *(task(method, weights[method], seed, method) for method in tuned for seed in seeds),
        *(task(OURS, weights[OURS], seed, SHUFFLED, shuffled=True) for seed in seeds if OURS in tuned),
    ]
    digests = run_tasks(rows, processes)
    frame = collect(regime, {(item.row, item.seed): digests[item] for item in rows})
    frame["unimodal_weight"] = frame["row"].map({**weights, SHUFFLED: weights.get(OURS)})
    return frame


def _tuned_weights(trials: Mapping[tuple[str, float], Sequence[Task]], processes: int) -> dict[str, float]:
    """Return the weight of each method with the best mean validation accuracy over the tuning seeds; of equal ones the smallest."""
    digests = run_tasks([task for tasks in trials.values() for task in tasks], processes)
    best: dict[str, tuple[float, float]] = {}
    for (method, weight), tasks in trials.items():
        score = fmean(campaign.score_of(task.row, digests[task], task.seed) for task in tasks)
        if method not in best or score > best[method][0]:
            best[method] = (score, weight)
    return {method: weight for method, (_, weight) in best.items()}


def _warmup_task(task: Task) -> Task:
    return Task(task.regime, task.seed, of_warmup(task.settings))


def run_tasks(tasks: Sequence[Task], processes: int) -> dict[Task, str]:
    """Train what is missing, warm-ups first; return the digest of each task's settings."""
    return campaign.run_all([_warmup_task(task) for task in tasks], tasks, run_task, processes)


def configuration(task: Task) -> Config:
    """Return the configuration of a task."""
    return campaign.stage_two(dict(task.settings), task.method, task.seed)


def run_task(task: Task) -> campaign.TaskResult:
    """Train a task unless its run already exists."""
    return campaign.run_after_warmup(task, configuration(task), test=task.test)


def collect(regime: str, settings: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """Collect one line per row and seed of a regime: accuracies on test, doubts at the end, run. Errors as in ``table_runs``."""
    lines = []
    for row, run, test in table_runs(campaign.experiment(), settings):
        line: dict[str, Any] = {
            "regime": regime, "row": row.removeprefix(f"{regime}: "), "seed": int(run.tags["mm.seed"]),
        }  # fmt: skip
        line |= {name: test.metrics[f"test/{name}"] for name in COLUMNS}
        line["val_accuracy"] = run.metrics["val/accuracy"]
        line |= {name: value for name, value in sorted(run.metrics.items()) if name.startswith("method/doubt_")}
        line |= {"run": run.run_id, "code": run.tags["mm.code"][:12]}
        lines.append(line)
    return pd.DataFrame(lines).sort_values(["row", "seed"], ignore_index=True)


def write(frame: pd.DataFrame, folder: Path) -> None:
    """Replace the rows of ``frame`` in ``regimes.csv``, keep all others, and write the page anew."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "regimes.csv"
    frame = campaign.replace_rows(frame, table, ["regime", "row"])
    order = {name: number for number, name in enumerate(REGIMES)}
    frame = frame.sort_values(
        ["regime", "row", "seed"], key=lambda column: column.map(order) if column.name == "regime" else column
    )
    frame.to_csv(table, index=False)
    (folder / "regimes.md").write_text("\n".join(page(frame)), "utf-8")


def page(frame: pd.DataFrame) -> list[str]:
    """Write the results as markdown."""
    lines = [
        "# Broken data: regimes",
        "",
        "Made by `python -m analysis.regimes`, from `regimes.csv`; do not edit. Test accuracy in percent, mean ± standard deviation "
        "over seeds; differences paired by seed, in points, with 95 % t-intervals. *Control* is `concat_unimodal`. Every method but "
        "`concat` has its unimodal weight tuned in the same regime, on validation: "
        f"{', '.join(f'{weight:g}' for weight in WEIGHTS)}, with {len(TUNING_SEEDS)} seeds of their own. "
        "`shuffled` gives the doubts to random samples, with the same weight: the difference to it is that of the *right* doubts.",
        "",
        *_summary(frame),
    ]
    for regime in dict.fromkeys(frame["regime"]):
        part = frame[frame["regime"] == regime]
        lines += ["", f"## {regime}", "", *_regime_table(part)]
    return [*lines, ""]


def _summary(frame: pd.DataFrame) -> list[str]:
    """Ours against control, rivals and shuffled in every regime; p-values by Holm over the regimes."""
    p_values = {}
    for regime in dict.fromkeys(frame["regime"]):
        wide = frame[frame["regime"] == regime].pivot(index="seed", columns="row", values="accuracy")
        if {OURS, CONTROL} <= set(wide) and len(wide) > 1:
            p_values[regime] = paired_p_value((wide[OURS] - wide[CONTROL]).dropna().to_numpy())
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    lines = [
        "Fused accuracy, `posterior_discount` minus another row:",
        "",
        "| regime | n | - control | p (Holm) | - shuffled | - gce | - loss_mixture | shuffled - control |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for regime in dict.fromkeys(frame["regime"]):
        part = frame[frame["regime"] == regime]
        cells = [
            regime,
            str(part["seed"].nunique()),
            difference(part, OURS, CONTROL, "accuracy"),
            f"{adjusted[regime]:.3f}" if regime in adjusted else "",
            difference(part, OURS, SHUFFLED, "accuracy"),
            difference(part, OURS, "gce", "accuracy"),
            difference(part, OURS, "loss_mixture", "accuracy"),
            difference(part, SHUFFLED, CONTROL, "accuracy"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _regime_table(part: pd.DataFrame) -> list[str]:
    lines = [
        "| row | n | " + " | ".join(COLUMNS.values()) + " | " + " | ".join(f"{name} - control" for name in COLUMNS.values())
        + " | unimodal weight |",
        "|---" * (3 + 2 * len(COLUMNS)) + "|",
    ]  # fmt: skip
    for row in part.groupby("row")["accuracy"].mean().sort_values(ascending=False).index:
        own = part[part["row"] == row]
        weight = own["unimodal_weight"].iloc[0]
        cells = [
            row,
            str(len(own)),
            *(spread(own[name], 100) for name in COLUMNS),
            *(difference(part, row, CONTROL, name) for name in COLUMNS),
            "" if pd.isna(weight) else f"{weight:g}" + (" (edge)" if weight in (WEIGHTS[0], WEIGHTS[-1]) else ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
