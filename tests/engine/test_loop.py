"""The loop: bookkeeping, resuming to the last bit, interruption, refits, divergence."""

import math

import pytest
import torch
from conftest import make_tiny_data
from torch import nn

from mm_balance.engine import loop
from mm_balance.engine.checkpoint import read_checkpoint, write_checkpoint
from mm_balance.engine.recorder import ListRecorder
from mm_balance.engine.step import Stepper
from mm_balance.errors import Interrupted, UserError
from mm_balance.methods import METHODS
from mm_balance.names import REFIT_METRICS, SPLIT_METRICS, TRAIN_METRICS, TRUTH_METRICS
from mm_balance.testing import tiny_stage

CPU = torch.device("cpu")
NOT_TIMES = ("train/samples_per_second",)


def make_stage(method="gap_mixture", epochs=4, refit_every=2, optimizer="sgd", data=None, **settings):
    return tiny_stage(METHODS[method], settings, data=data, epochs=epochs, refit_every=refit_every, optimizer=optimizer)


def start(stage):
    return loop.Progress(first_epoch=2, refit=loop._refit(stage, 2))


def never():
    return False


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
    assert logged == {*TRAIN_METRICS, *REFIT_METRICS, *split, *truth} - {"train/loss_<part>"}
    assert all(math.isfinite(value) for point in recorder.points for value in point.metrics.values())


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

        def publish(self, point, refit):
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


def test_a_survey_changes_nothing():
    stage = make_stage("concat")
    stage.model.train()
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    state = torch.get_rng_state()
    loop._refit(stage, 0)
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


def test_gradient_scaler_state_is_kept():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    stepper = Stepper(optimizer, CPU, "bfloat16")
    stepper.load_state_dict(stepper.state_dict())
    with pytest.raises(ValueError, match="SGD, this is Adam"):
        Stepper(torch.optim.Adam(nn.Linear(2, 2).parameters()), CPU, "float32").load_state_dict(stepper.state_dict())
