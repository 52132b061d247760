"""Benchmark training, split predictions, mixture fits, figures, data and tracking. `make bench` prints the table.

Timings are from one machine and one run: compare ratios, not seconds. Each line is the median of several repetitions.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from benchmarks import data as reading
from benchmarks.timing import median_seconds
from mm_balance.config import resolve
from mm_balance.data import BatchLoader, load_digits
from mm_balance.engine import loop
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.recorder import MetricPoint
from mm_balance.figures import mixture_density, save_png
from mm_balance.functional.gap_fits import fit_gaps
from mm_balance.functional.mixture import fit_mixture
from mm_balance.measuring import measure
from mm_balance.memory import keep_freed_memory
from mm_balance.methods import find_method
from mm_balance.types import Clock
from mm_balance.workflow.plans import StagePlan
from mm_balance.workflow.stage import build_stage


def main() -> None:
    """Print the table."""
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CUDA {torch.cuda.is_available()}\n")
    started = time.perf_counter()
    data = load_digits()
    rows = [("load digits (5,000 pairs)", time.perf_counter() - started, "s")]
    rows += training_rows(data)
    gaps = np.concatenate(
        [np.random.default_rng(0).normal(0, 0.02, 2000), np.random.default_rng(1).normal(0.1, 0.4, 1500)]
    )
    for kind in ("two", "two_absolute", "three"):
        rows.append(
            (
                f"fit mixture `{kind}`, 3,500 gaps",
                median_seconds(lambda kind=kind: fit_mixture(gaps, kind=kind), 5),
                "s",
            )
        )
    rows += fit_ratios()
    rows.append(("measure 100,000 saved predictions of 2 modalities, 10 classes: CPU time", measuring_seconds(), "s"))
    mixture = fit_mixture(gaps)
    rows.append(
        ("draw a density plot", median_seconds(lambda: save_png(mixture_density(gaps, mixture, title="t")), 5), "s")
    )
    rows += tracking_rows()
    rows += reading.rows()
    for name, value, unit in rows:
        print(f"{name:72s} {value:10.4g} {unit}")


def fit_ratios() -> list[tuple[str, float, str]]:
    """Compare fits with scikit-learn's default one, which has a single start and sticks in poor optima, in interleaved pairs."""
    rows = []
    for samples, pairs in ((3_500, 11), (1_000_000, 5)):
        draw = np.random.default_rng(2)
        wide = samples * 3 // 7
        gaps = np.clip(np.concatenate([draw.normal(0, 0.02, samples - wide), draw.normal(0.1, 0.4, wide)]), -1, 1)
        ratios = []
        for _ in range(pairs):
            ours = median_seconds(lambda gaps=gaps: fit_mixture(gaps), 1)
            theirs = median_seconds(lambda gaps=gaps: GaussianMixture(2).fit(gaps[:, None]), 1)
            ratios.append(ours / theirs)
        rows.append(
            (f"fit mixture `two`, {samples:,} gaps, over scikit-learn's default fit", float(np.median(ratios)), "times")
        )
    return rows


def training_rows(data) -> list[tuple[str, float, str]]:
    """Measure training steps per method, and predictions on a split, with default settings."""
    config = resolve({})
    rows = []
    for method in ("concat", "concat_unimodal", "gap_mixture"):
        plan = StagePlan(
            config, "train", method, find_method(method).Options(), epochs=1, refit_every=1, mixture="two",
            learning_rate=config.optimization.learning_rate,
        )  # fmt: skip
        stage = build_stage(plan, data, title="bench")
        predictions = predict_split(stage.model, stage.method, data.splits["train"], stage.device)
        progress = loop.Progress(gap_fit=fit_gaps(predictions, 0, "two"))
        loop.plan_epoch(stage, progress, Clock(0, 0, 1), lambda: False)
        stage.model.train()
        batches = list(BatchLoader(data.splits["train"], config.optimization.batch_size).epoch(0, stage.device))[:20]

        def steps(stage=stage, batches=batches) -> None:
            for batch in batches:
                stage.method.update(stage.model, batch, stage.optimizer_step, Clock(0, 0, 1))

        samples = sum(len(batch.labels) for batch in batches)
        rows.append(
            (
                f"train `{method}`, batch {config.optimization.batch_size}",
                samples / median_seconds(steps, 5),
                "samples/s",
            )
        )
    split = data.splits["train"]
    seconds = median_seconds(lambda: predict_split(stage.model, stage.method, split, stage.device), 3)
    return [*rows, ("predict the training split", len(split) / seconds, "samples/s")]


def measuring_seconds() -> float:
    """Return the CPU time of ``mm_balance.measure`` on 100,000 samples, over all threads."""
    draw = np.random.default_rng(0)
    labels = draw.integers(10, size=100_000)
    logits = {
        name: draw.normal(size=(100_000, 10)) + strength * np.eye(10)[labels]
        for name, strength in (("audio", 4.0), ("visual", 1.0))
    }
    measure(logits, labels)
    started = time.process_time()
    measure(logits, labels)
    return time.process_time() - started


def tracking_rows() -> list[tuple[str, float, str]]:
    """Measure logging one epoch's metrics to a fresh SQLite store."""
    from mm_balance.tracking.lookup import open_run, prepare_store

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path(folder) / 'mlflow.db'}"
        before = Path.cwd()
        os.chdir(folder)
        prepare_store()
        run = open_run("bench")
        step = iter(range(1000))
        metrics = {f"bench/{index}": 0.5 for index in range(40)}
        send = median_seconds(lambda: run.log_points([MetricPoint(next(step), int(time.time() * 1000), metrics)]), 10)
        run.terminate("FINISHED")
        os.chdir(before)
    return [("log one epoch (40 metrics) to sqlite", send, "s")]


if __name__ == "__main__":
    main()
