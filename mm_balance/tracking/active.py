"""Refits on a run that is not ours: the active MLflow run of any script, or another one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlflow
from mlflow.exceptions import MlflowException

from mm_balance.errors import UserError, reason
from mm_balance.functional.gap_fits import gap_fit_metrics
from mm_balance.tracking.database import DatabaseClient
from mm_balance.tracking.refits import write_refit
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import GapFit

SAME = 1e-9
"""Values of a metric that differ by less, relatively, are the same: databases round."""


def active_run_id() -> str | None:
    """Return the id of this script's active MLflow run; None = there is none."""
    active = mlflow.active_run()
    return None if active is None else active.info.run_id


def log_to_run(
    refit: GapFit,
    samples: Sequence[str],
    *,
    validation: GapFit | None = None,
    validation_samples: Sequence[str] = (),
    run_id: str | None = None,
    store: str | None = None,
) -> None:
    """Log a refit to a run: metrics at the step ``refit.epoch``, files and images as on our own runs.

    The script's own MLflow settings apply, repetitions and waiting times of requests among them: nothing is kept for later as it is
    for our own runs. Logging the same refit once more adds what is missing, which is nothing after a success.

    Args:
        refit: the fit of the training samples.
        samples: their ids.
        validation: the fit of validation samples; None = there is none.
        validation_samples: their ids.
        run_id: the run; None = the active one.
        store: address of the tracking store that has the run; None = the script's.

    Raises:
        UserError: there is no active run, or none with this id; it has another refit at this step; it cannot be written.
    """
    run_id = run_id or active_run_id()
    if run_id is None:
        raise UserError("there is no active MLflow run to log to: put the call inside `with mlflow.start_run():`")
    run = TrackedRun(run_id, DatabaseClient(store))
    metrics = refit_metrics(refit, validation)
    _refuse_another(run, metrics, refit.epoch)
    write_refit(run, refit, samples, None, validation=validation, validation_samples=validation_samples)
    run.log_metrics(metrics, refit.epoch)


def refit_metrics(refit: GapFit, validation: GapFit | None) -> dict[str, float]:
    """Return the metrics of a refit, with those of the validation gaps under the names that our own runs give them."""
    metrics = gap_fit_metrics(refit)
    if validation is not None:
        of_validation = gap_fit_metrics(validation)
        metrics |= {f"val/gap_{what}": of_validation[f"gap/{what}"] for what in ("mean", "std", "mean_abs")}
        metrics["val/density_at_zero"] = of_validation["gmm/density_at_zero"]
    return metrics


def _refuse_another(run: TrackedRun, metrics: dict[str, float], step: int) -> None:
    """Raise UserError if the run has other values at this step: points of a metric cannot be deleted."""
    try:
        logged = run.read().data.metrics
    except MlflowException as error:
        raise UserError(f"run {run.run_id} cannot be read: {reason(error)}") from error
    for name, value in metrics.items():
        if name not in logged:
            continue
        for at, before in run.metric_series(name):
            if at == step and not math.isclose(before, value, rel_tol=SAME, abs_tol=SAME):
                raise UserError(
                    f"run {run.run_id} has another refit at step {step} ({name} is {before:.6g} there, {value:.6g} here), and MLflow "
                    "deletes no points: log this one at another step"
                )
