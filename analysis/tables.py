"""Tables of the first result: `collect` reads finished runs, everything else is pure."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.claims import LEVEL, claims, claims_table, family_size
from mm_balance.errors import UserError
from mm_balance.functional.metrics import binary_auc, paired_interval
from mm_balance.functional.mixture import fit_mixture
from mm_balance.reproduction.training import ROW_TAG
from mm_balance.tracking.query import RunRecord, find_runs, read_run
from mm_balance.tracking.refits import read_gap_table, refit_epochs
from mm_balance.tracking.runs import TrackedRun

ACCURACIES = ("accuracy", "accuracy_audio", "accuracy_visual")
KINDS = ("two", "two_absolute", "three")
DEFAULT = "adaptive (reconstructed, default)"


def finished_run(experiment: str, row: str, seed: int, settings: str, status: str = "FINISHED") -> RunRecord | None:
    """Return the newest complete run of a row and seed with these settings; ``status="FAILED"``: the newest diverged one.

    Args:
        settings: digest of everything the result depends on, including code (the tag ``mm.settings``).
    """
    runs = find_runs(experiment, {ROW_TAG: row, "mm.seed": str(seed), "mm.settings": settings}, status)
    return runs[0] if runs else None


def table_runs(experiment: str, settings: Mapping[tuple[str, int], str]) -> list[tuple[str, RunRecord, RunRecord]]:
    """Return the runs of a table as (row, run, its test evaluation): the newest run of each row and seed with the given settings.

    Args:
        experiment: experiment that contains the runs.
        settings: (row, seed) -> digest of settings.

    Raises:
        UserError: a run is missing.
    """
    tests = {run.tags["mm.evaluated_run"]: run for run in find_runs(experiment, {"mm.stage": "evaluate"})}
    newest: dict[tuple[str, int], tuple[str, RunRecord, RunRecord]] = {}
    for run in find_runs(experiment):
        key = (run.tags.get(ROW_TAG, ""), int(run.tags.get("mm.seed", -1)))
        if key in newest or run.run_id not in tests or settings.get(key) != run.tags.get("mm.settings", ""):
            continue
        newest[key] = (key[0], run, tests[run.run_id])
    if missing := [f"{row} seed {seed}" for row, seed in settings if (row, seed) not in newest]:
        raise UserError(f"experiment {experiment} has no finished run with test accuracy of {', '.join(missing[:5])}")
    return [newest[key] for key in settings]


def collect(experiment: str, settings: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """Collect one line per row and seed: test accuracies, gap statistics at first and last refit, corruption detection at all refits.

    Arguments and errors as in ``table_runs``. The warm-up run may belong to another experiment.
    """
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for row, run, test in table_runs(experiment, settings):
        warmup, tracked = read_run(run.tags["mm.warmup_run"]), TrackedRun(run.run_id)
        line: dict[str, Any] = {"row": row, "seed": int(run.tags["mm.seed"]), "run": run.run_id}
        line |= {name: test.metrics[f"test/{name}"] for name in ACCURACIES}
        line["epoch"] = int(run.metrics["selection/last_epoch"])
        line["val_accuracy"] = run.metrics["val/accuracy"]
        for modality in ("audio", "visual"):
            name = f"val/accuracy_{modality}"
            line[f"warm-up {name}"] = warmup.metrics[name]
            line[f"final {name}"] = run.metrics[name]
        for name in ("gmm/density_at_zero", "gmm/imbalanced_weight", "gmm/imbalanced_mean", "gap/mean", "gap/mean_abs"):
            series = tracked.metric_series(name)
            line[f"first {name}"], line[f"last {name}"] = series[0][1], series[-1][1]
        line |= {f"last {name}": run.metrics[name] for name in run.metrics if name.startswith("truth/")}
        line |= {name: run.metrics[name] for name in run.metrics if name.startswith("time/")}
        refits = {epoch: detection(read_gap_table(tracked, epoch)) for epoch in refit_epochs(tracked)}
        line |= at_refits(refits, line["epoch"])
        lines[row, line["seed"]] = line
    return pd.DataFrame(lines.values()).sort_values(["row", "seed"], ignore_index=True)


def at_refits(values: Mapping[int, Mapping[str, float]], last_epoch: int) -> dict[str, Any]:
    """Summarize values over refits as ``first NAME``, ``training NAME`` (mean) and ``last NAME``.

    Training refits are those whose posteriors were used in an epoch: the warm-up's, from which stage 2 starts, and every later
    one except that after the last epoch.

    Args:
        values: epochs finished at the refit -> values by name, with the same names at all refits; at least one training refit.
        last_epoch: last epoch of the stage, after which the last refit was made.
    """
    training = [epoch for epoch in sorted(values) if epoch < last_epoch]
    line: dict[str, Any] = {"refits that train": ", ".join(map(str, training))}
    for when, epochs in (("first", training[:1]), ("training", training), ("last", [last_epoch])):
        line |= {
            f"{when} {name}": float(np.mean([values[epoch][name] for epoch in epochs])) for name in values[last_epoch]
        }
    return line


def detection(table: pd.DataFrame) -> dict[str, float]:
    """AUC of each score for planted corruption, from one refit's table; each mixture kind is fitted to its gaps."""
    gaps = torch.tensor(table["gap"].to_numpy())
    planted = torch.tensor((table["corrupted"] != "").to_numpy())
    loss = torch.tensor(-np.log(np.clip(table["p_fused"].to_numpy(), 1e-300, None)))
    scores = {"abs(gap)": gaps.abs(), "-log p fused": loss}
    scores |= {f"posterior {kind}": fit_mixture(gaps, kind=kind).posterior_imbalanced(gaps) for kind in KINDS}
    values = {f"auc all {name}": binary_auc(score, planted) for name, score in scores.items()}
    for modality, sign in (("audio", -1.0), ("visual", 1.0)):
        positive = torch.tensor((table["corrupted"] == modality).to_numpy())
        values[f"auc {modality} signed gap"] = binary_auc(sign * gaps, positive)
        for name, score in scores.items():
            values[f"auc {modality} {name}"] = binary_auc(score[positive | ~planted], positive[positive | ~planted])
    return values


def spread(values: Sequence[float], factor: float = 1.0, digits: int = 1) -> str:
    """Format ``mean ± standard deviation`` (n - 1); a single value is marked as such."""
    array = factor * np.asarray(values, dtype=float)
    deviation = f"± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else "(one seed, no spread)"
    return f"{array.mean():.{digits}f} {deviation}"


def difference(frame: pd.DataFrame, row: str, base: str, column: str) -> str:
    """Format the paired difference over seeds in points with its 95 % interval (Student's t); empty if they share no seed."""
    wide = frame.pivot(index="seed", columns="row", values=column)
    if row == base or row not in wide or base not in wide:
        return ""
    differences = 100 * (wide[row] - wide[base]).dropna().to_numpy()
    if not len(differences):
        return ""
    mean, low, high = paired_interval(differences)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def result_table(frame: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    """Render the main table as markdown."""
    lines = [
        "| stage 2 | measured at | n | fused | audio | visual | fused - joint | visual - joint | fused - control | visual - control |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        part = frame[frame["row"] == row]
        if part.empty:
            continue
        cells = [row, f"test, epoch {_one(part, 'epoch')}", str(len(part))]
        cells += [spread(part[name], 100) for name in ACCURACIES]
        cells += [
            difference(frame, row, base, column)
            for base in ("joint", "control")
            for column in ("accuracy", "accuracy_visual")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def gap_statistics(frame: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    """Render gap statistics at the first and last refit of every row as markdown."""
    columns = {
        "density at 0": "gmm/density_at_zero",
        "imbalanced weight": "gmm/imbalanced_weight",
        "imbalanced mean": "gmm/imbalanced_mean",
        "mean gap": "gap/mean",
        "mean abs(gap)": "gap/mean_abs",
    }
    lines = [
        "| stage 2 | measured at | " + " | ".join(f"{name}, first -> last" for name in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for row in rows:
        part = frame[frame["row"] == row]
        if not part.empty:
            cells = [
                f"{spread(part[f'first {name}'], digits=2)} -> {spread(part[f'last {name}'], digits=2)}"
                for name in columns.values()
            ]
            first = _one(part, "refits that train").split(", ")[0]
            lines.append(f"| {row} | train, epochs {first} -> {_one(part, 'epoch')} | " + " | ".join(cells) + " |")
    return lines


def detection_table(frame: pd.DataFrame, rows: Sequence[str]) -> list[str]:
    """Render AUCs for planted corruption as markdown, overall and by corrupted modality, at the refits of ``at_refits``."""
    scores = ["abs(gap)", *(f"posterior {kind}" for kind in KINDS), "-log p fused"]
    lines = [
        "| stage 2 | measured at | corrupted | signed gap | " + " | ".join(scores) + " |",
        "|---" * (4 + len(scores)) + "|",
    ]
    for row in rows:
        part = frame[frame["row"] == row]
        if part.empty:
            continue
        epochs = _one(part, "refits that train")
        measured = {
            "first": f"train, epoch {epochs.split(', ')[0]} (the warm-up's refit)",
            "training": f"train, mean of epochs {epochs} (training refits)",
            "last": f"train, epoch {_one(part, 'epoch')} (not used in training)",
        }
        for when, measured_at in measured.items():
            for which in ("all", "audio", "visual"):
                cells = [
                    spread(part[name], digits=3) if (name := f"{when} auc {which} {score}") in part else ""
                    for score in ("signed gap", *scores)
                ]
                lines.append(f"| {row} | {measured_at} | {which} | " + " | ".join(cells) + " |")
    return lines


def _one(part: pd.DataFrame, column: str) -> Any:
    """Return the value common to all seeds of a row. Raises ValueError if they differ and cannot share a line."""
    (value,) = set(part[column])
    return value


def write_result(frame: pd.DataFrame, tuning: str, rows: Sequence[str], folder: Path, seconds: float) -> None:
    """Write ``first_result.md`` and ``first_result.csv`` to ``folder``; ``tuning`` describes how the tuned rows were chosen."""
    findings = claims(frame)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "first_result.csv", index=False)
    text = [
        "# First result on `digits`",
        "",
        f"Written by `python -m analysis.first_result` on {time.strftime('%Y-%m-%d')} ({platform.machine()}, one thread per "
        f"run, torch {torch.__version__}); {seconds / 60:.0f} minutes for the runs that were missing.",
        f"Test accuracy in %, mean ± standard deviation over seeds {sorted(frame['seed'].unique().tolist())}; differences "
        "paired by seed in points with 95 % intervals (Student's t). Nothing was chosen on test data.",
        "",
        *result_table(frame, rows),
        "",
        tuning,
        "",
        "## The paper's claims",
        "",
        "A claim holds if the difference lies on the claimed side of 0 and its p-value (two-sided paired t-test), adjusted for the "
        f"{family_size(findings)} tests of this table by Holm's step-down procedure, is below {LEVEL}. Intervals are unadjusted and "
        "cover training seeds only: one draw of data, one test set. This is evidence about `digits` and a reconstructed loss, not "
        "about the paper's data.",
        "",
        *claims_table(findings),
        "",
        "## Gaps over the refits",
        "",
        *gap_statistics(frame, rows),
        "",
        "## Finding the planted corruption (AUC)",
        "",
        "Training refits are those whose posteriors were used in an epoch: the warm-up's, and each later one except that after the "
        "last epoch. Joint training and the control use none and are measured at the same epochs. Means over refits are per seed.",
        "",
        *detection_table(frame, ["joint", "control", DEFAULT]),
        "",
    ]
    (folder / "first_result.md").write_text("\n".join(text), "utf-8")
