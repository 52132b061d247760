"""The table of agreement with people, of runs on a data set with human votes (CREMA-D)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mm_balance import names
from mm_balance.report.groups import Group
from mm_balance.report.human import FACE, VOICE, Agreement, agreement, human_gap
from mm_balance.report.table import LEFT, Cell, Column, ReportTable
from mm_balance.report.tables import ID
from mm_balance.tracking.refits import read_validation_table, refit_epochs, stage_run
from mm_balance.tracking.runs import TrackedRun


def human_agreements(groups: Sequence[Group]) -> ReportTable | None:
    """Compare the gaps of validation clips with people's votes, where the data set has them (CREMA-D)."""
    rows, numbers = [], []
    for item in groups:
        for run in item.all_runs:
            found = human_agreement(TrackedRun(run.run_id)) if run.data.startswith("cremad") else None
            if found is None:
                continue
            interval = f"{found.correlation:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
            rows.append([Cell(text) for text in (run.method, str(run.seed), str(found.n), interval, run.run_id[:ID])])
            numbers.append(
                {
                    "method": run.method, "seed": run.seed, "n": found.n, "correlation": found.correlation, "low": found.low,
                    "high": found.high, "run": run.run_id,
                }
            )  # fmt: skip
    if not rows:
        return None
    columns = [
        Column("method", LEFT),
        Column("seed"),
        Column("clips"),
        Column("rank correlation"),
        Column("run", LEFT, web_only=True),
    ]
    notes = [
        "Spearman's correlation, with a 95 % interval, between a clip's modality gap at the last refit (validation clips, which were "
        "not trained on) and that of people: share of votes for the true emotion from the voice alone minus from the face alone."
    ]
    return ReportTable("human_agreement", "Agreement with people", columns, rows, numbers, notes)


def human_agreement(run: TrackedRun) -> Agreement | None:
    """Compare the gaps of a run's validation clips with people's votes; None where either is missing."""
    samples = read_samples(run)
    stage = stage_run(run)
    epochs = refit_epochs(stage)
    gaps = read_validation_table(stage, epochs[-1]) if epochs else None
    if samples is None or gaps is None or not {VOICE, FACE} <= set(samples):
        return None
    return agreement(pd.Series(gaps["gap"].to_numpy(), index=gaps["sample"].to_numpy()), human_gap(samples))


def read_samples(run: TrackedRun) -> pd.DataFrame | None:
    """Return the metadata of a run's samples (``data/samples.parquet``); None if it has none."""
    path = f"{names.DATA_FOLDER}/{names.SAMPLES_FILE}"
    if path not in run.artifact_names(names.DATA_FOLDER):
        return None
    with TemporaryDirectory() as folder:
        return pd.read_parquet(run.fetch(path, Path(folder)))
