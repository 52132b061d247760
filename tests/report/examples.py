"""Made-up records of runs."""

from mm_balance.tracking.query import RunRecord

ACCURACIES = {
    # (method, corruption) -> seed -> fused, audio, visual on test
    ("concat_unimodal", "0.0"): {1: (0.90, 0.80, 0.50), 2: (0.92, 0.78, 0.52), 3: (0.91, 0.79, 0.54)},
    ("gap_mixture", "0.0"): {1: (0.91, 0.81, 0.60), 2: (0.93, 0.79, 0.61), 3: (0.93, 0.81, 0.62)},
    ("concat_unimodal", "0.4"): {1: (0.80, 0.70, 0.40), 2: (0.82, 0.68, 0.42), 3: (0.81, 0.69, 0.44)},
    ("gap_mixture", "0.4"): {1: (0.80, 0.71, 0.50), 2: (0.80, 0.69, 0.51), 3: (0.84, 0.71, 0.52)},
}
_count = [0]


def record(
    method="concat", seed=1, *, status="FINISHED", stage="train", settings=(), metrics=None, tags=(), parameters=()
):
    """One run; ``settings`` are parameters by name."""
    _count[0] += 1
    values = {"dataset": "digits", "modalities": "audio,visual", "method": method, "seed": str(seed), **dict(settings)}
    return RunRecord(
        run_id=f"{_count[0]:08d}aaaa",
        name=f"{method} digits seed {seed}",
        status=status,
        metrics=metrics or {},
        parameters={**{f"config/{name}": value for name, value in values.items()}, **dict(parameters)},
        tags={
            "mm.stage": stage,
            "mm.method": method,
            "mm.dataset": "digits",
            "mm.seed": str(seed),
            "mm.code": "c",
            **dict(tags),
        },
    )


def evaluation_of(run, fused, audio, visual):
    """An evaluation of a run on test."""
    metrics = {"test/accuracy": fused, "test/accuracy_audio": audio, "test/accuracy_visual": visual}
    tags = {"mm.stage": "evaluate", "mm.evaluated_run": run.run_id, "mlflow.parentRunId": run.run_id}
    return RunRecord(f"evaluation of {run.run_id}", "evaluate", "FINISHED", metrics, {}, tags)


def example_records(accuracies=None):
    """Runs of two methods on clean and on corrupted data, three seeds each, newest first."""
    records = []
    for (method, corruption), by_seed in (accuracies or ACCURACIES).items():
        for seed, (fused, audio, visual) in by_seed.items():
            run = record(
                method, seed, settings={"corruption": corruption},
                metrics={"val/accuracy": fused, "val/gap_mean": 0.3, "gap/mean": 0.1, "gmm/density_at_zero": 2.0},
            )  # fmt: skip
            records += [run, evaluation_of(run, fused, audio, visual)]
    return records[::-1]
