"""The whole recipe from Python: what ``main`` and ``train`` do, on data that are at hand, with or without MLflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mm_balance.commands.command import Command, Request
from mm_balance.commands.main import COMMAND as MAIN
from mm_balance.commands.train import COMMAND as TRAIN
from mm_balance.config import Config, Option, format_value, options, parse_value, restore, stage_options
from mm_balance.config.datasets import AT_HAND
from mm_balance.data import MultimodalData
from mm_balance.engine import loop
from mm_balance.engine.checkpoint import gap_fit_from_state, validation_fit_from_state
from mm_balance.engine.evaluate import split_metrics
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.recorder import ListRecorder, MetricPoint
from mm_balance.errors import UserError, did_you_mean
from mm_balance.functional.mixture import Mixture
from mm_balance.measuring import Measured, measure, measured_from
from mm_balance.methods import build_method, check_method_name, check_takes_labels, find_method
from mm_balance.models import MultimodalNetwork
from mm_balance.types import GapFit, SplitPredictions
from mm_balance.workflow.build import begin_from, build_stage
from mm_balance.workflow.duration import warn_if_long
from mm_balance.workflow.plans import (
    StagePlan,
    adaptive_plan,
    check_takes_warmup,
    train_plan,
    warmup_plan,
)
from mm_balance.workflow.pretrained import check_networks
from mm_balance.workflow.setup import HELD_OUT_SEED, data_at_hand, read_data, resolve_device

if TYPE_CHECKING:
    from mm_balance.explorer.samples import Table
    from mm_balance.figures import Figure


@dataclass(repr=False)
class Result:
    """A trained recipe.

    Attributes:
        metrics: validation and test metrics of the final network by name, ``val/accuracy``, ``test/accuracy_audio``, ...
        model: the final network, in eval mode.
        data: what it was trained on; where the method holds samples out, ``train`` is without them.
        config: all parameters with their values.
        refits: the gap fits of the training samples, in order; of a run in MLflow, the last one only.
        validation: those of the validation samples.
        points: all metrics over the epochs.
        run_id: id of the run in MLflow; empty = not tracked.
    """

    metrics: Mapping[str, float]
    model: MultimodalNetwork
    data: MultimodalData
    config: Config
    refits: list[GapFit]
    validation: list[GapFit]
    points: list[MetricPoint] = field(repr=False)
    run_id: str = ""

    def __repr__(self) -> str:
        alone = (f"{name} {100 * self.metrics[f'test/accuracy_{name}']:.1f} %" for name in self.data.specs)
        what = f"{self.config.method.method} on {self.data.name}, seed {self.config.run.seed}"
        tracked = f", run {self.run_id}" if self.run_id else ""
        return f"<{what}: test accuracy fused {100 * self.metrics['test/accuracy']:.1f} %, {', '.join(alone)}{tracked}>"

    def measured(self, split: str = "train") -> Measured:
        """Return gaps, mixture and posterior of the last refit, of ``train`` or ``val``; of ``test``, those of the final network."""
        if split == "test":
            found = self.predict("test")
            return measure(
                found.unimodal, found.labels, self.data.splits[split].samples, fused=found.fused, kind=self.mixture.kind
            )
        fits = {"train": self.refits, "val": self.validation}
        if split not in fits:
            raise ValueError(f"split={split!r} is not known; give train, val or test")
        return measured_from(fits[split][-1], self.data.splits[split].samples)

    @property
    def mixture(self) -> Mixture:
        """The mixture fitted to the training gaps at the last refit."""
        return self.refits[-1].mixture

    @cached_property
    def gaps(self) -> Table:
        """The last refit's training samples: index, sample, label, ``p_<modality>``, p_fused, gap, posterior_imbalanced."""
        return self.measured("train").table()

    def figure(self) -> Figure:
        """Draw the gaps and the mixture of the last refit, and below them those of the validation samples."""
        title = f"Modality gap after epoch {self.refits[-1].epoch}"
        return self.measured("train").figure(validation=self.measured("val"), title=title)

    def predict(self, split: str = "test") -> SplitPredictions:
        """Predict every sample of a split with the final network. Raises ValueError if there is no such split."""
        if split not in self.data.splits:
            raise ValueError(f"split={split!r} is not known; give {', '.join(self.data.splits)}")
        device = resolve_device(self.config.run.device)
        method = build_method("concat", {}, self.model.modalities, 0)
        return predict_split(self.model.to(device), method, self.data.splits[split], device, coalitions=True)

    def explore(self, path: str | Path = "explorer.html", *, worst: int = 100) -> Table:
        """Write the page on which one sees and hears the samples, the most suspicious first.

        Args:
            path: where to write it: one file that needs nothing else. A tracked run gets it too, as its artifact.
            worst: number of samples per split with pictures and sounds.

        Returns:
            Its table: one row per sample of all splits.
        """
        from mm_balance.workflow.explore import explore, explore_trained  # loads MLflow, which takes seconds

        if not self.run_id:
            page, table = explore_trained(self.model, self.data, self.config, self.refits, self.validation, worst=worst)
            Path(path).write_text(page, "utf-8")
            return table
        from mm_balance import names
        from mm_balance.tracking.lookup import existing_run

        tracked = existing_run(self.run_id, "run")
        table = explore(tracked, self.data, self.config, worst=worst, device=self.config.run.device)
        with TemporaryDirectory() as folder:
            Path(path).write_bytes(tracked.fetch(names.EXPLORER_FILE, Path(folder)).read_bytes())
        return table


def run(
    data: MultimodalData | str = "digits",
    method: str = "gap_mixture",
    *,
    seed: int = 0,
    warmup: bool = True,
    track: bool = True,
    **parameters: Any,
) -> Result:
    """Train on ``data`` and return the result: what `-e main` does, or `-e train`.

    Args:
        data: a data set (``from_dataset`` makes one of your own), or a value of the parameter ``dataset``.
        method: a name in ``METHODS``, or ``package.module:Class``. With ``warmup``, it trains the second stage.
        seed: seed of the initial weights and the sample order.
        warmup: whether stage 1 comes first, as in `main`; otherwise the method trains a single stage from scratch, as in `train`.
        track: whether everything is logged to MLflow, as the commands do (store: ``MLFLOW_TRACKING_URI``, by default `mlflow.db` in
            the current folder). Otherwise nothing is written, MLflow is not even imported, and training cannot be resumed.
        parameters: parameters of the command line with their values, ``batch_size=32``, ``encoder="mlp"``,
            ``method_options={"alpha": 0.5}``; ``auto`` or nothing = the preset's. Data given as an object have the preset of a
            manifest. ``resume_run="ID"`` goes on with an unfinished run, with its method and seed.

    Raises:
        UserError: an unknown parameter, a value that is not allowed, or data that the method cannot use.
        Diverged: the loss is no longer finite.

    Example:
        >>> result = run("digits", preset="quick", train_fraction=0.05, track=False)  # doctest: +SKIP
        >>> result.metrics["test/accuracy"], result.gaps, result.figure()  # doctest: +SKIP
    """
    command = MAIN if warmup else TRAIN
    resumed = "resume_run" in parameters
    given = _given(command, parameters if resumed else {"method": method, "seed": seed, **parameters})
    if isinstance(data, MultimodalData):
        if chosen := [name for name in ("dataset", "modalities", "label_separator") if name in given]:
            raise UserError(
                f"{chosen[0]} is for data that are read by name; these are given: choose when they are made, in from_dataset"
            )
        given |= {"dataset": f"{AT_HAND}:{re.sub('[^0-9a-zA-Z_]', '_', data.name)}", "modalities": ",".join(data.specs)}
    elif not isinstance(data, str):
        raise UserError(
            f"data is a {type(data).__name__}; give a name, a path, or a MultimodalData: mm_balance.from_dataset makes one of "
            "lists of dictionaries and of data sets of torch or Hugging Face"
        )
    elif not resumed:
        given["dataset"] = parse_value(options()["dataset"], data)
    if resumed and not track:
        raise UserError("resume_run: only a tracked run can be resumed")
    config = None if resumed else command.resolve(given)
    if config is not None:
        check_method_name(config.method.method)
    if track:
        return _tracked(command, Request(given, config), data if isinstance(data, MultimodalData) else None)
    assert config is not None
    check_networks(config)
    known = data_at_hand(data, config) if isinstance(data, MultimodalData) else read_data(config)
    check_takes_labels(find_method(config.method.method), several_classes=known.several_classes)
    return _untracked(config, known, warmup=warmup)


def _given(command: Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with typed values, checked as those of a command line are."""
    known: dict[str, Option] = {**stage_options(command.name), "method": options()["method"]}
    given = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"{name} is not a parameter of a run{_hint(name, command) or did_you_mean(name, list(known))}"
            )
        if name == "method_options" and isinstance(value, Mapping):
            value = ",".join(f"{option}={format_value(item)}" for option, item in value.items())
        if isinstance(value, type) or callable(value):
            raise UserError(f"{name} is given as an object; give its import path, package.module:{value.__name__}")
        text = value if isinstance(value, str) else format_value(value)
        parsed = parse_value(known[name], text)
        if parsed != "auto":
            given[name] = parsed
    return given


def _hint(name: str, command: Command) -> str:
    """Return what to give instead of a name that is plausible, but another one; empty = no idea."""
    if name == "epochs" and command is MAIN:
        return ": it has two stages, warmup_epochs and adaptive_epochs; warmup=False trains a single one"
    instead = {"lr": "learning_rate", "kind": "mixture", "options": "method_options", "wd": "weight_decay"}.get(name)
    return "" if instead is None else f" (did you mean {instead}?)"


def _tracked(command: Command, request: Request, data: MultimodalData | None) -> Result:
    """Train as the command does, and read the result back from its run."""
    from mm_balance.commands import main, train
    from mm_balance.tracking.lookup import children
    from mm_balance.tracking.model import load_network
    from mm_balance.tracking.refits import stage_run
    from mm_balance.workflow.stage import saved_points, saved_state

    read: list[MultimodalData] = []

    def keep(config: Config, stop: Callable[[], bool]) -> MultimodalData:
        read.append(read_data(config, stop) if data is None else data_at_hand(data, config))
        return read[0]

    trained = (main.train if command is MAIN else train.train)(request, lambda: False, keep)
    stage = stage_run(trained)
    state = saved_state(stage)
    assert state is not None
    model, epoch = load_network(trained)
    config = restore(state["record"]["config"]) if request.config is None else request.config
    chosen = read[0].with_held_out(find_method(config.method.method).held_out, seed=HELD_OUT_SEED)
    fit, validation = gap_fit_from_state(state["refit"]), validation_fit_from_state(state)
    own = [MetricPoint(**point) for point in state["points"]]
    point = next(item for item in own if item.step == epoch)
    warmup = children(trained).get("warmup")
    result = Result(
        {},
        model.eval(),
        chosen,
        config,
        [fit],
        [] if validation is None else [validation],
        own if warmup is None else saved_points(warmup) + own,
        trained.run_id,
    )
    return _with_metrics(result, point)


def _untracked(config: Config, data: MultimodalData, *, warmup: bool) -> Result:
    """Train in memory."""
    recorder, points = ListRecorder(), list[MetricPoint]()
    if warmup:
        check_takes_warmup(config.method.method)
    plan = adaptive_plan(config) if warmup else train_plan(config)
    before = warmup_plan(config) if warmup else None
    epochs = plan.epochs + (0 if before is None else before.epochs)
    command = MAIN if warmup else TRAIN
    warn_if_long(config, data, epochs, command.parameters, command=command.name)
    state = None
    if before is not None:
        first = ListRecorder()
        state = loop.capture(*_trained(before, data, first, None))
        points += first.points
    stage, progress = _trained(plan, data, recorder, state)
    point = recorder.points[-1]
    if plan.select_best:
        assert recorder.best is not None
        stage.model.load_state_dict(recorder.best["model"])
        point = next(item for item in recorder.points if item.step == progress.best_epoch)
    points += recorder.points
    fits = recorder.refits, recorder.validation_refits
    return _with_metrics(Result({}, stage.model.eval(), stage.data, config, *fits, points), point)


def _with_metrics(result: Result, point: MetricPoint) -> Result:
    """Test the network, and add the validation metrics of its epoch."""
    tested = dict(split_metrics(result.predict("test"), "test"))
    result.metrics = tested | {name: value for name, value in point.metrics.items() if name.startswith("val/")}
    return result


def _trained(
    plan: StagePlan, data: MultimodalData, recorder: ListRecorder, state: dict[str, Any] | None
) -> tuple[loop.Stage, loop.Progress]:
    """Train a stage from the end of a warm-up, whose last state is ``state``, or from scratch; return it with its progress."""
    stage = build_stage(plan, data, title=plan.stage)
    progress = loop.Progress() if state is None else begin_from(plan, stage, state, "the warm-up")[0]
    stage.method.prepare(stage.model)
    loop.fit(stage, progress, recorder, lambda: False)
    return stage, progress
