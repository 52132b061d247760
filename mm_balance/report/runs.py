"""From records of MLflow to trained runs with their settings and results. Pure: reads no store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mm_balance import names
from mm_balance.config import options
from mm_balance.tracking.query import RunRecord

METHOD_PREFIX = "method/"
"""Of the logged options of a method."""
TRAINED = ("main", "train", "adaptive", "warmup")
"""Stages of runs with a model."""


@dataclass(frozen=True)
class TrainedRun:
    """One run with a model, and its results.

    Attributes:
        run_id: MLflow's id.
        name: its name.
        stage: entry point.
        method: name of its method.
        data: name of its data set.
        seed: its seed; None = not recorded.
        status: MLflow's status: ``FINISHED``, ``FAILED``, ``KILLED``.
        error: why it failed; empty if it did not, or did not say.
        code: digest of the training code.
        settings: parameter or option of the method -> value as text, without the seed and what does not change the result.
        metrics: the last value of every metric, ``test/...`` of its newest evaluation on test included, and of `main` those of its
            last stage.
        logged: parameters and tags as logged, of everything that was set.
        planned_as: the places among the tables of `reproduce` that it was trained for; empty = for none.
        warmup_run: id of the warm-up that it started from; empty = from scratch, or a run of `main`.
        branches: whether its results per modality are those of branches that see the other modalities, too.
    """

    run_id: str
    name: str
    stage: str
    method: str
    data: str
    seed: int | None
    status: str
    error: str
    code: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    logged: Mapping[str, str]
    planned_as: str
    warmup_run: str
    branches: bool


@dataclass(frozen=True)
class Collection:
    """The runs of a report.

    Attributes:
        runs: trained runs of their own, newest first, in any status.
        nested: how many more runs belong to another one (stages of `main`, trials of a study, warm-ups that others start from) and are
            left out.
    """

    runs: Sequence[TrainedRun] = field(default_factory=tuple)
    nested: int = 0

    def with_results(self, split: str) -> list[TrainedRun]:
        """Return the finished runs that have results on ``split``."""
        return [run for run in self.runs if run.status == "FINISHED" and f"{split}/accuracy" in run.metrics]

    def without_results(self, split: str) -> list[TrainedRun]:
        """Return the finished runs that have none."""
        return [run for run in self.runs if run.status == "FINISHED" and f"{split}/accuracy" not in run.metrics]

    def failed(self) -> list[TrainedRun]:
        """Return the runs that did not finish."""
        return [run for run in self.runs if run.status != "FINISHED"]


def collect(records: Iterable[RunRecord]) -> Collection:
    """Sort out the records of one or more experiments, given newest first.

    The metrics of a run of `main` include those of its last stage, except validation and test, which it has itself. A run that belongs
    to another one is left out: the stages of `main` (their parent has the results), the trials of a study, and
    warm-ups that other runs start from. An evaluation on test gives its metrics to the run that it evaluated; of several the newest.
    """
    records = list(records)
    tested: dict[str, Mapping[str, float]] = {}
    for record in records:
        if (source := record.tags.get("mm.evaluated_run")) and record.status == "FINISHED":
            tested.setdefault(
                source, {name: value for name, value in record.metrics.items() if name.startswith("test/")}
            )
    trained = [record for record in records if record.tags.get("mm.stage") in TRAINED]
    started_from = {record.tags.get("mm.warmup_run") for record in trained}
    own = [record for record in trained if record.parent is None and record.run_id not in started_from]
    last_stage: dict[str, Mapping[str, float]] = {}
    for record in trained:  # the newest first; a warm-up is no last stage
        if record.parent is not None and record.status == "FINISHED" and record.tags["mm.stage"] != "warmup":
            last_stage.setdefault(record.parent, record.metrics)
    runs = [
        _trained_run(record, {**last_stage.get(record.run_id, {}), **tested.get(record.run_id, {})})
        for record in own
        if "resumed_run" not in record.tags
    ]
    return Collection(runs, len(trained) - len(own))


def _trained_run(record: RunRecord, others: Mapping[str, float]) -> TrainedRun:
    seed = record.tags.get("mm.seed")
    settings = settings_of(record.parameters, record.tags)
    if record.tags["mm.stage"] == "adaptive":  # it takes no parameter `method`
        settings = {"method": record.tags.get("mm.method", ""), **settings}
    return TrainedRun(
        run_id=record.run_id,
        name=record.name,
        stage=record.tags["mm.stage"],
        method=record.tags.get("mm.method", ""),
        data=record.tags.get("mm.dataset", ""),
        seed=None if seed is None else int(seed),
        status=record.status,
        error=record.tags.get("mm.error", ""),
        code=record.tags.get("mm.code", ""),
        settings=settings,
        metrics={**others, **record.metrics},
        logged=_logged(record),
        planned_as=record.tags.get("mm.row", "") if "mm.job" in record.tags else "",
        warmup_run=record.tags.get("mm.warmup_run", ""),
        branches=record.tags.get("mm.unimodal") == "branches",
    )


def _logged(record: RunRecord) -> dict[str, str]:
    kept = (names.CONFIG_PREFIX, METHOD_PREFIX, "mm.method")
    return {name: text for name, text in {**record.parameters, **record.tags}.items() if name.startswith(kept)}


def settings_of(parameters: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return what was trained: resolved parameters and the method's options by name, without what the result does not depend on.

    Left out: the seed, where to run, and references to other things (a preset, a run, options as text), whose content is there.

    Args:
        parameters: MLflow's parameters of a run.
        tags: its tags; parameters that may change when a run is resumed are there.
    """
    declared = options()
    logged = {
        name.removeprefix(names.CONFIG_PREFIX): text
        for name, text in {**parameters, **tags}.items()
        if name.startswith(names.CONFIG_PREFIX)
    }
    chosen = {
        name: text
        for name, text in logged.items()
        if name != "seed" and not (name in declared and (declared[name].machine or declared[name].reference))
    }
    own = {
        name.removeprefix(METHOD_PREFIX): text for name, text in parameters.items() if name.startswith(METHOD_PREFIX)
    }
    return own | chosen
