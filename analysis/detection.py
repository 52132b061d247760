"""How well broken samples are found, and whether the broken *modality* is named: gaps by source, losses, cleanlab.

    python -m analysis.detection --processes 2
    python -m analysis.detection --grid PATH/manifest.csv

In each data set a share of the training samples is corrupted in one way (`corruption_kind`), and the control (`concat_unimodal`)
is trained after a joint warm-up. Scores are read from the tables of every refit that a method could train on (all but the last), once
with `gap_source=refit` and once with `running`. `cross-fitted` and cleanlab see the same probabilities: of four copies, each trained
as long as the whole recipe on three quarters of the samples, that never saw the sample. Nothing is tuned; validation and test are not
read.

Cost on 2 cores, two processes of one thread: per kind and seed about 4 minutes on `digits` and 2 on GRID letters. Runs go to the
MLflow experiment ``detection``; finished ones are not trained again. The table keeps the data sets and kinds that a call leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis import campaign
from analysis.tables import finished_run, spread
from mm_balance.config import Config
from mm_balance.config.resolve import PRESETS
from mm_balance.engine.gap_sources import FOLDS, loss_of_copies
from mm_balance.engine.loop import inspector_at
from mm_balance.explorer.samples import suspicion
from mm_balance.functional.gap import true_class_probability
from mm_balance.functional.metrics import binary_auc
from mm_balance.functional.mixture import fit_mixture
from mm_balance.reproduction.plan import of_warmup
from mm_balance.tracking.refits import read_gap_table, refit_epochs
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import Clock, SplitPredictions
from mm_balance.workflow.plans import trial_plan
from mm_balance.workflow.provenance import expected_settings
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.stage import build_stage

EXPERIMENT = "detection"
CONTROL = "concat_unimodal"
FIRST_SEED = 6000
SHARE = 0.2
KINDS = ("mixed", "noise", "blank", "other", "mismatch", "label")
SOURCES = ("refit", "running")
CROSS_FITTED = "cross-fitted"
POSTERIORS = ("two", "two_absolute")
EXPLORER = "suspicion of the explorer, all refits together"
ALL_REFITS = -1
"""Stands for the epoch of a score that is computed from all refits."""
MOST_SUSPECT = 50
MEASURES = ("auc", "precision", "named", "precision50", "named50")
DIGITS, GRID = "digits", "grid"


@dataclass(frozen=True)
class Task:
    """One job: a training run with a source of gaps, the cross-fitting of a case, or (``source`` empty) a warm-up."""

    data: str
    kind: str
    seed: int
    settings: tuple[tuple[str, Any], ...]
    out: Path
    source: str = ""

    @property
    def row(self) -> str:
        """Name among all jobs of a seed; empty for a warm-up."""
        return f"{self.data} {self.kind}: {self.source}" if self.source else ""


def main() -> None:
    """Train and cross-fit what is missing, case by case, and write the table after each."""
    arguments = campaign.start_campaign(
        __doc__, EXPERIMENT, seeds=3, first_seed=FIRST_SEED, kinds=",".join(KINDS), grid="none"
    )
    for data in (DIGITS, GRID):
        if data == GRID and arguments.grid == "none":
            continue
        for kind in arguments.kinds.split(","):
            settings = _settings(data, kind, arguments.grid, arguments.preset)
            seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
            tasks = [
                Task(data, kind, seed, settings, arguments.out, source)
                for seed in seeds
                for source in (*SOURCES, CROSS_FITTED)
            ]
            digests = campaign.run_all([_warmup_task(task) for task in tasks], tasks, run_task, arguments.processes)
            write(collect(tasks, digests), arguments.out)


def _settings(data: str, kind: str, grid: str, preset: str) -> tuple[tuple[str, Any], ...]:
    settings: dict[str, Any] = {"dataset": data, "corruption": SHARE, "corruption_kind": kind}
    if data == GRID:
        settings |= {"dataset": grid, "preset": str(PRESETS / f"{GRID}.yaml")}
    if preset != "auto":
        settings["preset"] = preset
    return tuple(sorted(settings.items()))


def _warmup_task(task: Task) -> Task:
    return Task(task.data, task.kind, task.seed, of_warmup(task.settings), task.out)


def configuration(task: Task) -> Config:
    """Return the configuration of a job: the control after a warm-up."""
    source = {"gap_source": task.source} if task.source in SOURCES else {}
    return campaign.stage_two({**dict(task.settings), **source}, CONTROL if task.source else "", task.seed)


def run_task(task: Task) -> campaign.TaskResult:
    """Do a job unless its result already exists."""
    config = configuration(task)
    return (
        _cross_fit(task, config) if task.source == CROSS_FITTED else campaign.run_after_warmup(task, config, test=False)
    )


def _cross_fit(task: Task, config: Config) -> campaign.TaskResult:
    data = read_data(config)
    plan = trial_plan(config, after_warmup=True)
    settings = expected_settings(plan, data, after_warmup=True)
    path = cross_file(task, settings)
    if path.is_file():
        return campaign.TaskResult(campaign.ALREADY, settings)
    stage = build_stage(plan, data, title="cross-fitting")
    epochs = plan.config.warmup.warmup_epochs + plan.epochs
    inspector = inspector_at(stage, None, Clock(epochs, 0, epochs), campaign.never_stop)
    predictions = inspector.cross_predict(loss_of_copies, epochs, folds=FOLDS)
    path.parent.mkdir(parents=True, exist_ok=True)
    cross_table(predictions, data.splits["train"].corrupted).to_parquet(path, index=False)
    return campaign.TaskResult(f"{FOLDS} copies, {epochs} epochs", settings)


def cross_file(task: Task, settings: str) -> Path:
    """Return where the table of a cross-fitting lies: beside the results, by the digest of its settings."""
    return task.out / "detection_cross" / f"{settings[:16]}-{task.seed}.parquet"


def cross_table(predictions: SplitPredictions, corrupted: Iterable[str]) -> pd.DataFrame:
    """Return cross-fitted predictions in the form of a refit's table, with the label quality scores of cleanlab.

    Columns: ``p_<modality>``, p_fused, ``quality_<modality>``, quality_fused (cleanlab's normalized margin: the lower, the more likely
    the label is wrong), corrupted.
    """
    from cleanlab.rank import get_label_quality_scores  # a development dependency, slow to import

    labels = predictions.labels
    table = {}
    for name, logits in {**predictions.unimodal, "fused": predictions.fused}.items():
        table[f"p_{name}"] = true_class_probability(logits.double(), labels).numpy()
        probabilities = logits.double().softmax(dim=1).numpy()
        table[f"quality_{name}"] = get_label_quality_scores(labels.numpy(), probabilities, method="normalized_margin")
    return pd.DataFrame({**table, "corrupted": list(corrupted)})


def collect(tasks: Iterable[Task], digests: Mapping[Task, str]) -> pd.DataFrame:
    """Score the tables of all jobs of a case: one line per seed, source, refit and score."""
    lines = []
    for task in tasks:
        line = {"data": task.data, "kind": task.kind, "seed": task.seed, "source": task.source}
        tables = _tables(task, digests[task])
        for epoch, table in tables.items():
            lines += [{**line, "epoch": epoch, "score": score, **values} for score, values in scores(table).items()]
        lines.append({**line, "epoch": ALL_REFITS, "score": EXPLORER, **explorer_score(list(tables.values()))})
    return pd.DataFrame(lines)


def _tables(task: Task, settings: str) -> dict[int, pd.DataFrame]:
    """Return the tables of a job by epoch: of all refits that could train, or of the cross-fitting (epoch 0)."""
    if task.source == CROSS_FITTED:
        return {0: pd.read_parquet(cross_file(task, settings))}
    run = finished_run(campaign.experiment(), task.row, task.seed, settings)
    assert run is not None, f"{task.row} was not trained"
    tracked = TrackedRun(run.run_id)
    return {epoch: read_gap_table(tracked, epoch) for epoch in refit_epochs(tracked)[:-1]}


def scores(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Score a table of probabilities against the planted truth.

    Args:
        table: columns ``p_<modality>``, p_fused, corrupted, and possibly ``quality_<modality>`` and quality_fused.

    Returns:
        Score -> ``auc`` of finding corrupted samples, ``precision`` among the k most suspect (k = number of corrupted samples), and
        ``named``: of the samples corrupted in a modality, the share whose most suspect modality is that one (only for scores per
        modality).
    """
    modalities = [name.removeprefix("p_") for name in table if name.startswith("p_") and name != "p_fused"]
    planted = torch.tensor((table["corrupted"] != "").to_numpy())
    losses = {name: _column(table, f"p_{name}").clamp_min(1e-12).log().neg() for name in (*modalities, "fused")}
    lags = {
        name: losses[name] - _least(losses, [other for other in modalities if other != name]) for name in modalities
    }
    gaps = _column(table, f"p_{modalities[0]}") - _most(table, modalities[1:])
    found = {
        "abs(gap)": _detection(gaps.abs(), planted),
        **{
            f"posterior {kind}": _detection(fit_mixture(gaps, kind=kind).posterior_imbalanced(gaps), planted)
            for kind in POSTERIORS
        },
        "-log p fused": _detection(losses["fused"], planted),
        "-log p of the worst modality": _per_modality({name: losses[name] for name in modalities}, table, planted),
        "log lag of the worst modality": _per_modality(lags, table, planted),
    }
    if "quality_fused" in table:
        quality = {name: -_column(table, f"quality_{name}") for name in modalities}
        found["cleanlab fused"] = _detection(-_column(table, "quality_fused"), planted)
        found["cleanlab of the worst modality"] = _per_modality(quality, table, planted)
    return found


def explorer_score(tables: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Score the suspicion of the explorer, computed from all these tables together, as ``scores`` does.

    Also ``precision50``: the share of truly corrupted samples among the 50 most suspect, and ``named50``: of those among them that are
    corrupted in a modality, the share whose modality is named rightly.
    """
    first = tables[0]
    modalities = [name.removeprefix("p_") for name in first if name.startswith("p_") and name != "p_fused"]
    found = suspicion({name: [table[f"p_{name}"].to_numpy() for table in tables] for name in modalities})
    corrupted, suspect = first["corrupted"].to_numpy(), found["suspect"]
    of_modality = np.isin(corrupted, modalities)
    top = np.argsort(-found["suspicion"], kind="stable")[:MOST_SUSPECT]
    return {
        **_detection(torch.from_numpy(found["suspicion"]), torch.from_numpy(corrupted != "")),
        "named": _share(suspect[of_modality] == corrupted[of_modality]),
        "precision50": _share(corrupted[top] != ""),
        "named50": _share((suspect == corrupted)[top][of_modality[top]]),
    }


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else float("nan")


def _column(table: pd.DataFrame, name: str) -> Tensor:
    return torch.tensor(table[name].to_numpy(), dtype=torch.float64)


def _least(losses: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    return torch.stack([losses[name] for name in names]).amin(dim=0)


def _most(table: pd.DataFrame, names: Iterable[str]) -> Tensor:
    return torch.stack([_column(table, f"p_{name}") for name in names]).amax(dim=0)


def _detection(suspicion: Tensor, planted: Tensor) -> dict[str, float]:
    most = suspicion.argsort(descending=True, stable=True)[: int(planted.sum())]
    return {"auc": binary_auc(suspicion, planted), "precision": float(planted[most].double().mean())}


def _per_modality(suspicion: Mapping[str, Tensor], table: pd.DataFrame, planted: Tensor) -> dict[str, float]:
    stacked = torch.stack(list(suspicion.values()))
    names = np.array(list(suspicion))[stacked.argmax(dim=0).numpy()]
    of_modality = table["corrupted"].isin(list(suspicion)).to_numpy()
    named = float(np.mean((names == table["corrupted"].to_numpy())[of_modality])) if of_modality.any() else float("nan")
    return {**_detection(stacked.amax(dim=0), planted), "named": named}


def write(frame: pd.DataFrame, folder: Path) -> None:
    """Replace the cases of ``frame`` in ``detection.csv``, keep all others, and write the page anew."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "detection.csv"
    frame = campaign.replace_rows(frame, path, ["data", "kind"])
    frame.to_csv(path, index=False)
    (folder / "detection.md").write_text("\n".join(page(frame)), "utf-8")


def page(frame: pd.DataFrame) -> list[str]:
    """Write the table as markdown: mean over the refits that could train, then mean ± standard deviation over seeds."""
    lines = [
        "# Finding planted corruption",
        "",
        f"Made by `python -m analysis.detection`, from `detection.csv`; do not edit. {SHARE:.0%} of the training samples are "
        "corrupted. *AUC* of finding them; *precision* among as many most suspect samples as are corrupted; *named*: of the samples "
        "corrupted in one modality, the share whose most suspect modality is that one. `refit` and `running`: mean over the refits a "
        "method could train on. `cross-fitted`: probabilities of copies that never saw the sample; cleanlab sees the same (normalized "
        "margin).",
    ]
    for (data, kind), part in frame.groupby(["data", "kind"], sort=False):
        lines += [
            "",
            f"## {data}, {kind}",
            "",
            f"| source | score | n | AUC | precision | named | precision of the first {MOST_SUSPECT} | named of these |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
        ]
        for (source, score), own in part.groupby(["source", "score"], sort=False):
            seeds = own.groupby("seed")[list(MEASURES)].mean()
            cells = [
                "" if seeds[column].isna().any() else spread(seeds[column].to_numpy(), digits=2) for column in MEASURES
            ]
            lines.append("| " + " | ".join([str(source), str(score), str(len(seeds)), *cells]) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
