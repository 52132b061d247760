"""The loop: bookkeeping, resuming to the last bit, interruption, refits, divergence."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mm_balance.engine import cost, loop
from mm_balance.engine.checkpoint import gap_fit_from_state, gap_fit_to_state, read_checkpoint, write_checkpoint
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.recorder import ListRecorder
from mm_balance.engine.step import EngineOptimizerStep, build_optimizer
from mm_balance.errors import Interrupted, UserError
from mm_balance.functional.gap_fits import fit_gaps
from mm_balance.names import (
    DOUBT_METRICS,
    REFIT_METRICS,
    SPLIT_METRICS,
    TRAIN_METRICS,
    TRUTH_METRICS,
    VALIDATION_REFIT_METRICS,
)
from mm_balance.testing import tiny_data as make_tiny_data
from tests.helpers.stages import make_stage, never

CPU = torch.device("cpu")
NOT_TIMES = ("train/samples_per_second",)


def start(stage):
    return loop.Progress(first_epoch=2, gap_fit=loop.measure_gaps(stage, 2))


def comparable(points):
    return [
        (point.step, {name: value for name, value in point.metrics.items() if name not in NOT_TIMES})
        for point in points
    ]


def run(stage, recorder=None, stop=never):
    recorder = recorder or ListRecorder()
    progress = start(stage)
    loop.fit(stage, progress, recorder, stop)
    return progress, recorder


def test_points_refits_and_clock():
    progress, recorder = run(make_stage(epochs=5, refit_every=2))
    assert [point.step for point in recorder.points] == [2, 3, 4, 5, 6, 7]
    assert [refit.epoch for refit in recorder.refits] == [2, 4, 6, 7]  # every second, and after the last epoch
    assert progress.epoch == 7
    rates = [point.metrics["learning_rate"] for point in recorder.points[1:]]
    assert rates == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])
    strengths = [point.metrics["anneal"] for point in recorder.points[1:]]
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * fraction / 5)) for fraction in range(5)]
    assert strengths == pytest.approx(expected)


def test_every_metric_is_named_once_in_names():
    _, recorder = run(make_stage())
    split = {
        f"val/{name}".replace("<modality>", modality) for name in SPLIT_METRICS for modality in ("audio", "visual")
    }
    truth = {name.replace("<modality>", modality) for name in TRUTH_METRICS for modality in ("audio", "visual")}
    logged = {name for point in recorder.points for name in point.metrics}
    assert logged == {*TRAIN_METRICS, *REFIT_METRICS, *VALIDATION_REFIT_METRICS, *split, *truth} - {"train/loss_<part>"}
    assert all(math.isfinite(value) for point in recorder.points for value in point.metrics.values())


def test_the_doubts_of_a_method_are_in_its_refits_scored_and_survive_a_checkpoint():
    stage = make_stage("posterior_discount", persistence=1, margin=0.0)
    _, recorder = run(stage)
    first, *_, last = recorder.refits
    assert first.doubts == {}  # of the warm-up, which doubts nothing
    assert {name: len(doubt) for name, doubt in last.doubts.items()} == dict.fromkeys(
        ("audio", "visual"), len(last.gaps)
    )
    assert torch.equal(last.doubts["audio"], stage.method.history[0, 0])
    assert last.doubts["visual"].amax() > 0
    assert torch.equal(gap_fit_from_state(gap_fit_to_state(last)).doubts["visual"], last.doubts["visual"])
    names_of = {name.replace("<modality>", modality) for name in DOUBT_METRICS for modality in ("audio", "visual")}
    assert names_of <= set(recorder.points[-1].metrics)


def test_the_parts_of_the_loss_sum_to_the_loss():
    _, recorder = run(make_stage())
    for point in recorder.points[1:]:
        parts = [value for name, value in point.metrics.items() if name.startswith("train/loss_")]
        assert sum(parts) == pytest.approx(point.metrics["train/loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["concat", "concat_unimodal", "gap_mixture"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batches", [0, 3, 5, 11])
def test_a_run_continued_from_a_checkpoint_is_the_same_to_the_last_bit(tmp_path, method, optimizer, batches):
    """Interrupted after `batches` more batches (in an epoch, and at its end), restored in a fresh stage."""
    reference = make_stage(method, optimizer=optimizer)
    _, whole = run(reference)

    class Stop:
        seen = 0

        def __call__(self):
            self.seen += 1
            return self.seen > batches

    stage, recorder = make_stage(method, optimizer=optimizer), ListRecorder()
    with pytest.raises(Interrupted):
        run(stage, recorder, Stop())
    write_checkpoint(recorder.state, tmp_path / "last")

    torch.manual_seed(999)  # a new process starts with other random states
    continued, fresh = make_stage(method, optimizer=optimizer), ListRecorder()
    with torch.no_grad():
        for parameter in continued.model.parameters():
            parameter.add_(1.0)
    progress = loop.restore(continued, read_checkpoint(tmp_path / "last"))
    loop.fit(continued, progress, fresh, never)

    assert comparable(recorder.points + fresh.points) == comparable(whole.points)
    assert comparable(progress.points) == comparable(whole.points)
    for name, value in reference.model.state_dict().items():
        assert torch.equal(value, continued.model.state_dict()[name]), name


def test_saving_comes_before_publishing():
    order = []

    class Spy(ListRecorder):
        def save(self, state):
            order.append(("save", len(state["points"])))

        def publish(self, point, refit=None, validation=None):
            order.append(("publish", point.step))

    run(make_stage(epochs=2), Spy())
    assert order == [("save", 1), ("publish", 2), ("save", 2), ("publish", 3), ("save", 3), ("publish", 4)]


def test_the_best_epoch_is_the_first_with_the_best_validation_accuracy():
    progress, recorder = run(make_stage(epochs=5))
    accuracies = [(point.metrics["val/accuracy"], -point.step) for point in recorder.points[1:]]
    best, step = max(accuracies)
    assert (progress.best_accuracy, progress.best_epoch) == (best, -step)
    assert recorder.best["epoch"] == -step


def test_a_loss_that_is_not_finite_ends_with_advice():
    stage = make_stage("concat")
    stage.learning_rate = lambda clock: 1e30
    with pytest.raises(UserError, match=r"no longer finite.*learning_rate"):
        run(stage)


@pytest.mark.parametrize("name", ["encoders.visual.backbone.0.weight", "encoders.audio.backbone.1.running_var"])
def test_weights_that_are_not_finite_end_with_advice_though_the_loss_is(name):
    stage = make_stage("concat", epochs=1)
    update, batches = stage.method.update, len(stage.data.splits["train"]) // stage.batch_size

    def last_update_breaks_a_weight(model, batch, step, clock):
        loss_output = update(model, batch, step, clock)
        if clock.batch == batches - 1:
            with torch.no_grad():
                model.state_dict()[name].view(-1)[0] = float("nan")
        return loss_output

    stage.method.update = last_update_breaks_a_weight
    recorder = ListRecorder()
    with pytest.raises(
        UserError, match=rf"{name} .*no longer finite after epoch 3.*lower learning_rate .*precision=float32"
    ):
        run(stage, recorder)
    assert recorder.state["progress"]["stage_epoch"] == 0, "what is saved is from before this epoch"


def shuffled(data):
    """The same training samples in another order."""
    train = data.splits["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))
    return replace(data, splits={**data.splits, "train": train.subset(order)})


@pytest.mark.parametrize("other", [shuffled, lambda data: data.with_train_fraction(0.5, seed=0)])
def test_a_checkpoint_of_other_samples_is_refused_before_anything_changes(other):
    """Posterior tables, plans and the order of an epoch under way are by index."""
    data = make_tiny_data()
    _, recorder = run(make_stage(data=data, epochs=1))
    stage = make_stage("concat", data=other(data))
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    with pytest.raises(
        UserError, match="the checkpoint belongs to other training samples, or to the same in another order"
    ):
        loop.restore(stage, recorder.state)
    assert all(torch.equal(value, before[name]) for name, value in stage.model.state_dict().items())


def test_a_refit_says_which_samples_it_is_of():
    data = make_tiny_data()
    _, recorder = run(make_stage(data=data, epochs=1))
    assert {refit.samples_digest for refit in recorder.refits} == {data.splits["train"].samples_digest}
    assert shuffled(data).splits["train"].samples_digest != data.splits["train"].samples_digest


def test_every_refit_measures_the_validation_samples_too():
    stage = make_stage(epochs=3, refit_every=2)
    progress, recorder = run(stage)
    assert [fit.epoch for fit in recorder.validation_refits] == [4, 5]
    validation = stage.data.splits["val"]
    assert {fit.samples_digest for fit in recorder.validation_refits} == {validation.samples_digest}
    last, point = recorder.validation_refits[-1], recorder.points[-1]
    predictions = predict_split(stage.model, stage.method, validation, CPU)
    assert torch.equal(last.gaps, fit_gaps(predictions, 5, "two").gaps)
    assert float(last.gaps.mean()) == pytest.approx(point.metrics["val/gap_mean"], abs=1e-6)
    assert last.mixture.density_at_zero == point.metrics["val/density_at_zero"]
    assert not torch.equal(last.gaps, progress.gap_fit.gaps[: len(last.gaps)])


def test_the_validation_fit_survives_a_checkpoint_and_older_checkpoints_have_none(tmp_path):
    progress, recorder = run(make_stage(epochs=1))
    write_checkpoint(recorder.state, tmp_path / "last")
    state = read_checkpoint(tmp_path / "last")
    restored = loop.restore(make_stage(epochs=1), state)
    assert restored.validation_fit.mixture == progress.validation_fit.mixture
    assert torch.equal(restored.validation_fit.gaps, progress.validation_fit.gaps)
    del state["validation_refit"]
    assert loop.restore(make_stage(epochs=1), state).validation_fit is None


def test_the_first_fit_of_a_stage_is_published_with_its_validation_samples():
    stage = make_stage(epochs=1)
    predictions = predict_split(stage.model, stage.method, stage.data.splits["val"], CPU)
    validation, recorder = fit_gaps(predictions, 2, "two"), ListRecorder()
    progress = start(stage)
    progress.validation_fit = validation
    loop.fit(stage, progress, recorder, never)
    assert recorder.validation_refits[0] is validation
    assert recorder.points[0].metrics["val/density_at_zero"] == validation.mixture.density_at_zero


def test_training_seconds_count_all_processes_of_a_stage(monkeypatch):
    """Half the epochs in one process, half in another: the sum of both, and nothing of what lay between."""
    now = [0.0]

    def clock():
        now[0] += 1e-6
        return now[0]

    monkeypatch.setattr(cost.time, "perf_counter", clock)
    plan = loop.plan_epoch

    def planned(*words):
        now[0] += 10.0  # each epoch takes ten seconds
        return plan(*words)

    monkeypatch.setattr(loop, "plan_epoch", planned)

    class Slow(ListRecorder):
        def save(self, state):
            super().save(copy.deepcopy(state))
            now[0] += 1000.0  # tracking does not count

    stage, recorder = make_stage("concat", epochs=4), Slow()
    asked = iter(range(10**6))
    with pytest.raises(Interrupted):
        loop.fit(stage, loop.Progress(), recorder, lambda: next(asked) == 7)  # five batches an epoch: in the second
    now[0] += 5000.0
    again = make_stage("concat", epochs=4)
    progress = loop.restore(again, recorder.state)
    assert progress.training_seconds == pytest.approx(20.0, abs=0.1)
    loop.fit(again, progress, Slow(), never)
    assert progress.training_seconds == pytest.approx(
        40.0, abs=0.1
    )  # the plan of the second epoch came with the checkpoint


def test_the_peak_of_memory_is_that_of_the_stage(monkeypatch):
    """Counted anew when a stage begins, and over the processes of a resumed one."""
    peaks = iter([500, 900, 100, 100, 100, 100])
    order = []
    monkeypatch.setattr(loop, "reset_peak_memory", lambda device: order.append("reset"))
    monkeypatch.setattr(loop, "peak_memory_bytes", lambda device: order.append("read") or next(peaks))
    stage, recorder = make_stage("concat", epochs=2), ListRecorder()
    loop.fit(stage, loop.Progress(), recorder, never)
    assert order == ["reset", "read", "read"]
    again = make_stage("concat", epochs=3)
    progress = loop.restore(again, recorder.state)
    loop.fit(again, progress, ListRecorder(), never)
    assert progress.peak_memory == 900


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_peak_of_the_stage_before_is_forgotten():
    device = torch.device("cuda")
    torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    assert cost.peak_memory_bytes(device) >= 64 * 2**20
    cost.reset_peak_memory(device)
    assert cost.peak_memory_bytes(device) < 64 * 2**20


def test_the_best_weights_are_saved_after_the_state_that_calls_them_so():
    order = []

    class Spy(ListRecorder):
        def save(self, state):
            order.append(("last", state["progress"]["best_epoch"]))

        def save_best(self, state):
            order.append(("best", state["epoch"]))

    run(make_stage("concat", epochs=2), Spy())
    assert order[:3] == [("last", 0), ("last", 3), ("best", 3)]


def test_a_survey_changes_nothing():
    stage = make_stage("concat")
    stage.model.train()
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    state = torch.get_rng_state()
    loop.measure_gaps(stage, 0)
    assert stage.model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in stage.model.state_dict().items())


def test_last_batch_of_one_sample_is_no_trouble_for_batch_norm():
    run(make_stage("concat", data=make_tiny_data(train=41)))


def test_the_first_refit_reaches_the_method_before_the_first_loss():
    stage = make_stage(epochs=1)
    _, recorder = run(stage)
    first, last = recorder.refits
    assert torch.allclose(stage.method.posterior_table.double(), first.posterior_imbalanced, atol=1e-6)
    assert not torch.allclose(first.posterior_imbalanced, last.posterior_imbalanced, atol=1e-3)


def linear_stepper(kind="sgd", **settings):
    layer = nn.Linear(2, 2)
    made = build_optimizer(
        kind, layer.parameters(), **{"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4, **settings}
    )
    return layer, EngineOptimizerStep(made, CPU, "float32")


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_state_that_is_kept_brings_no_settings(kind):
    """Momentum and the like come from the state; rate, momentum's factor and weight decay are the configuration's."""
    layer, old = linear_stepper(kind)
    layer(torch.ones(1, 2)).sum().backward()
    old.step()
    _, new = linear_stepper(kind, learning_rate=0.3, momentum=0.5, weight_decay=0.01)
    expected = {name: value for name, value in new.optimizer.param_groups[0].items() if name != "params"}
    new.load_state_dict(old.state_dict())
    found = {name: value for name, value in new.optimizer.param_groups[0].items() if name != "params"}
    assert found == expected
    assert (found["lr"], found["weight_decay"]) == (0.3, 0.01)
    kept = [state["momentum_buffer" if kind == "sgd" else "exp_avg"] for state in new.optimizer.state.values()]
    source = [state["momentum_buffer" if kind == "sgd" else "exp_avg"] for state in old.optimizer.state.values()]
    assert len(kept) == 2
    assert all(torch.equal(one, other) for one, other in zip(kept, source, strict=True))


def test_gradient_scaler_state_is_kept():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    optimizer_step = EngineOptimizerStep(optimizer, CPU, "bfloat16")
    optimizer_step.load_state_dict(optimizer_step.state_dict())
    with pytest.raises(ValueError, match="SGD, but the optimizer is Adam"):
        EngineOptimizerStep(torch.optim.Adam(nn.Linear(2, 2).parameters()), CPU, "float32").load_state_dict(
            optimizer_step.state_dict()
        )
