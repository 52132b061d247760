"""Losses that are not finite, and data sets so small or so uniform that formulas degenerate."""

import pytest
import torch

from mm_balance.engine import loop
from mm_balance.engine.recorder import ListRecorder
from mm_balance.errors import Diverged, Interrupted
from mm_balance.methods import METHODS
from mm_balance.testing import first_progress, tiny_data, tiny_stage
from tests.helpers.stages import make_stage, never
from tests.methods.test_conformance import EARLY


def run(stage, recorder=None, stop=never, state=None):
    recorder = recorder or ListRecorder()
    progress = first_progress(stage) if state is None else loop.restore(stage, state)
    loop.fit(stage, progress, recorder, stop)
    return progress, recorder


def data_with_a_broken_sample(number=7, modality="audio"):
    data = tiny_data()
    data.splits["train"].inputs[modality][number, 0, 0, 0] = float("nan")
    return data


def test_a_sample_whose_input_is_not_finite_is_named():
    with pytest.raises(Diverged, match=r"epoch 3, batch .*: the audio of sample train-7 is not finite"):
        run(tiny_stage(METHODS["concat"], data=data_with_a_broken_sample()))


def test_the_batch_whose_loss_is_not_finite_is_named():
    stage = make_stage("concat")
    stage.learning_rate = lambda clock: 1e30
    recorder = ListRecorder()
    with pytest.raises(
        Diverged, match=r"epoch 3, batch 2 of 5: .*samples train-\d+, train-\d+, .*: lower learning_rate"
    ):
        run(stage, recorder)
    assert recorder.state["progress"]["batch"] == 0, "the last good state is kept"


def test_a_stop_does_not_save_a_state_that_is_not_finite(monkeypatch):
    stage = make_stage("concat")
    stage.learning_rate = lambda clock: 1e30
    recorder = ListRecorder()
    # As on CUDA, where the loss is not looked at after every batch.
    monkeypatch.setattr("mm_balance.engine.not_finite.looks_at_once", lambda device: False)
    calls = iter([False, False, True])
    with pytest.raises(Diverged, match="batch 2 of 5"):
        run(stage, recorder, stop=lambda: next(calls))
    assert recorder.state["progress"]["batch"] == 0


def test_skipping_leaves_out_what_is_not_finite_and_trains_on(capsys):
    stage = tiny_stage(METHODS["concat_unimodal"], data=data_with_a_broken_sample(), skip_not_finite=True)
    progress, recorder = run(stage)
    assert progress.stage_epoch == stage.epochs
    assert [point.metrics["train/samples_left_out"] for point in recorder.points[1:]] == [8.0] * stage.epochs
    assert all(bool(value.isfinite().all()) for value in stage.model.state_dict().values())
    losses = [point.metrics["train/loss"] for point in recorder.points[1:]]
    assert losses[-1] < losses[0]
    said = capsys.readouterr().err
    assert said.count("the audio of sample train-7 is not finite; the batch is left out (on_nan=skip)") == stage.epochs


def test_skipping_changes_nothing_where_everything_is_finite():
    one, other = (tiny_stage(METHODS["gap_mixture"], skip_not_finite=skip) for skip in (False, True))
    run(one)
    _, recorder = run(other)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert recorder.points[-1].metrics["train/samples_left_out"] == 0.0


def test_skipping_goes_on_after_a_stop_as_if_there_had_been_none():
    def stage():
        return tiny_stage(METHODS["concat"], data=data_with_a_broken_sample(), skip_not_finite=True)

    whole = stage()
    _, expected = run(whole)
    stopped, recorder = stage(), ListRecorder()
    calls = iter([False] * 8 + [True])
    with pytest.raises(Interrupted):
        run(stopped, recorder, stop=lambda: next(calls))
    resumed = stage()
    _, finished = run(resumed, recorder, state=recorder.state)
    assert finished.points[-1].metrics["train/loss"] == expected.points[-1].metrics["train/loss"]
    assert finished.points[2].metrics["train/samples_left_out"] == 8.0


def test_an_epoch_without_a_finite_batch_ends_training_though_skipping_is_wanted():
    data = tiny_data()
    data.splits["train"].inputs["visual"].fill_(float("nan"))
    with pytest.raises(Diverged, match="no batch of epoch 3 has a finite loss"):
        run(tiny_stage(METHODS["concat"], data=data, skip_not_finite=True))


def test_a_copy_that_a_method_trains_and_that_diverges_is_named():
    stage = tiny_stage(METHODS["umt"], {"teacher_epochs": 2})
    stage.learning_rate = lambda clock: 1e30
    with pytest.raises(Diverged, match="a copy of the network that umt trains is no longer finite"):
        run(stage)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "kind",
    ["one of each class", *(pytest.param(kind, marks=pytest.mark.verify) for kind in ("all alike", "one class"))],
)
def test_every_method_trains_on_the_least_there_is(name, kind):
    data = tiny_data(classes=2, train=2 if kind == "one of each class" else 16)
    train = data.splits["train"]
    if kind == "all alike":
        for value in train.inputs.values():  # but for their class, or batch normalization divides by nothing
            value.copy_(value[train.labels].clone())
    if kind == "one class":
        train.labels.zero_()
    method = METHODS[name]
    if method.held_out and kind == "one of each class":
        pytest.skip("nothing can be held out")
    stage = tiny_stage(method, EARLY.get(name, {}), data=data, epochs=2, refit_every=1)
    # Of so few or so uniform samples the variance is next to nothing, and batch normalization divides by it.
    stage.learning_rate = lambda clock: 0.001
    progress, _ = run(stage)
    assert progress.stage_epoch == 2
    assert all(bool(value.isfinite().all()) for value in stage.model.state_dict().values())
