"""Where the training samples' gaps come from: what each source measures, and that the default changes nothing."""

import copy
from dataclasses import replace

import pytest
import torch

from mm_balance.engine import loop
from mm_balance.engine.checkpoint import read_checkpoint, write_checkpoint
from mm_balance.engine.gap_sources import SeenProbabilities
from mm_balance.engine.inspector import EngineInspector
from mm_balance.engine.predictions import predict_split
from mm_balance.engine.recorder import ListRecorder
from mm_balance.errors import Interrupted
from mm_balance.functional.discount import UNSEEN
from mm_balance.functional.gap import true_class_probability
from mm_balance.testing import CPU, tiny_data
from mm_balance.types import Batch, Output
from tests.helpers.stages import make_stage, never

SOURCES = ("refit", "running", "cross_fitted")


def stage_of(source, method="gap_mixture", **settings):
    stage = make_stage(method, data=tiny_data(train=24), **settings)
    stage.gap_source, stage.keep_seen = source, source == "running"
    return stage


def start(stage):
    """As after a warm-up, whose fit is of the network."""
    return loop.Progress(first_epoch=2, gap_fit=loop.measure_gaps(replace(stage, gap_source="refit"), 2))


def run(stage, stop=never, recorder=None):
    progress, recorder = start(stage), recorder or ListRecorder()
    loop.fit(stage, progress, recorder, stop)
    return progress, recorder


def logits_of(*probabilities):
    """Two classes; the probability of class 0, per sample."""
    values = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([values.log(), (1 - values).log()], dim=1)


def batch_of(index, present=None):
    labels = torch.zeros(len(index), dtype=torch.long)
    return Batch({}, labels, torch.tensor(index), {} if present is None else present)


def output_of(audio, visual, fused):
    """Modalities in another order than the rows: names decide."""
    return Output(logits_of(*fused), {"visual": logits_of(*visual), "audio": logits_of(*audio)}, {})


def test_running_means_worked_out_by_hand():
    seen = SeenProbabilities.none_yet(("audio", "visual"), 4, CPU)
    seen.record(output_of([0.5, 0.8], [0.2, 0.4], [0.6, 0.9]), batch_of([2, 0]))
    seen.record(output_of([0.3], [0.1], [0.7]), batch_of([1]))
    seen.end_epoch()
    assert not seen.complete
    seen.record(output_of([1.0 - 1e-12], [0.6], [0.1]), batch_of([2]))
    seen.end_epoch()
    expected = torch.tensor(
        [
            [0.8, 0.3, 0.7 * 0.5 + 0.3 * 1.0, UNSEEN],
            [0.4, 0.1, 0.7 * 0.2 + 0.3 * 0.6, UNSEEN],
            [0.9, 0.7, 0.7 * 0.6 + 0.3 * 0.1, UNSEEN],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(seen.running, expected)


def test_a_modality_that_was_not_shown_and_a_value_that_is_not_finite_are_left_out():
    seen = SeenProbabilities.none_yet(("audio", "visual"), 2, CPU)
    seen.record(
        output_of([0.5, 0.8], [0.2, 0.4], [0.6, 0.9]), batch_of([0, 1], {"visual": torch.tensor([True, False])})
    )
    seen.record(output_of([float("nan")], [0.3], [0.7]), batch_of([0]))
    seen.end_epoch()
    expected = torch.tensor([[0.5, 0.8], [0.3, UNSEEN], [0.7, UNSEEN]], dtype=torch.float64)
    torch.testing.assert_close(seen.running, expected)


def test_running_gaps_are_the_means_of_what_each_epoch_saw():
    """Recomputed from the outputs of every update, with the fit at hand where training has seen nothing."""
    stage = stage_of("running", epochs=3, refit_every=1)
    update, epochs = stage.method.update, []

    def spying(model, batch, step, clock):
        output = update(model, batch, step, clock)
        if clock.batch == 0:
            epochs.append({})
        for name in ("audio", "visual"):
            values = true_class_probability(output.output.unimodal[name].detach().double(), batch.labels)
            for index, value in zip(batch.index.tolist(), values.tolist(), strict=True):
                epochs[-1][name, index] = value
        return output

    stage.method.update = spying
    _, recorder = run(stage)
    means = dict(epochs[0])
    for number, refit in enumerate(recorder.refits[1:]):
        if number:
            means = {key: 0.7 * value + 0.3 * epochs[number][key] for key, value in means.items()}
        expected = [means["audio", index] - means["visual", index] for index in range(24)]
        assert refit.gaps.tolist() == pytest.approx(expected, abs=1e-12)
        assert refit.source == "running"
        assert torch.equal(refit.posterior_imbalanced, refit.mixture.posterior_imbalanced(refit.gaps))
    assert torch.equal(recorder.refits[0].gaps, start(stage_of("running")).gap_fit.gaps)  # nothing was seen before


def test_running_means_need_no_pass_over_the_training_split(monkeypatch):
    stage = stage_of("running", epochs=2, refit_every=1)
    progress, predicted = start(stage), []
    predict = loop.predict_split

    def spying(model, method, split, *rest, **more):
        predicted.append(split.name)
        return predict(model, method, split, *rest, **more)

    monkeypatch.setattr(loop, "predict_split", spying)
    loop.fit(stage, progress, ListRecorder(), never)
    assert predicted == ["val", "val"]


def test_a_sample_that_training_never_saw_counts_with_the_networks_prediction():
    stage = stage_of("running", "concat", epochs=1)
    shown = torch.arange(20)
    stage.method.refresh = lambda model, inspector, clock: loop.EpochPlan(samples=shown)
    progress, _ = run(stage)
    predictions = predict_split(stage.model, stage.method, stage.data.splits["train"], CPU)
    network = true_class_probability(predictions.unimodal["visual"].double(), predictions.labels)
    found = progress.gap_fit.probabilities["visual"]
    assert torch.equal(found[20:], network[20:])
    assert not torch.isclose(found[:20], network[:20]).all()
    assert (progress.seen.running[:, 20:] == UNSEEN).all()


def test_what_the_warm_up_saw_is_what_the_next_stage_starts_with():
    warmup = stage_of("refit", "concat", epochs=2)
    warmup.keep_seen = True
    before, _ = run(warmup)
    assert before.gap_fit.source == "refit"
    stage, recorder = stage_of("running", epochs=1), ListRecorder()
    progress = loop.Progress(first_epoch=4, gap_fit=before.gap_fit, seen=before.seen)
    expected = before.seen.running[0] - before.seen.running[1]
    loop.fit(stage, progress, recorder, never)
    assert torch.equal(recorder.refits[0].gaps, expected)


def test_cross_fitted_gaps_are_of_copies_that_never_trained_on_the_sample(monkeypatch):
    """Every copy's samples are recorded; each sample's probability is that of the one copy that lacks it."""
    copies, trained = [], EngineInspector.train_copy

    def spying(self, loss, epochs, **more):
        indices = []

        def watched(network, batch):
            indices.append(batch.index)
            return loss(network, batch)

        result = trained(self, watched, epochs, **more)
        copies.append((result.model, torch.cat(indices), epochs))
        return result

    monkeypatch.setattr(EngineInspector, "train_copy", spying)
    stage = stage_of("cross_fitted", epochs=1)
    progress, recorder = run(stage)
    train = stage.data.splits["train"]
    assert [epochs for _, _, epochs in copies] == [2] * 4 + [3] * 4  # as many as the network had had
    for fit, members in zip(recorder.refits, (copies[:4], copies[4:]), strict=True):
        assert fit.source == "cross_fitted"
        covered = []
        for model, indices, _ in members:
            own = sorted(set(range(24)) - set(indices.tolist()))
            covered += own
            predictions = predict_split(model, stage.method, train.subset(torch.tensor(own)), CPU)
            for name in ("audio", "visual"):
                expected = true_class_probability(predictions.unimodal[name].double(), predictions.labels)
                assert torch.equal(fit.probabilities[name][own], expected)
        assert sorted(covered) == list(range(24))
    assert torch.equal(progress.gap_fit.gaps, recorder.refits[-1].gaps)


@pytest.mark.parametrize("source", ["running", "cross_fitted"])
def test_another_source_changes_nothing_in_a_training_that_does_not_use_the_gaps(source):
    """Weights and random states are those of `refit`, and so are all metrics but those of the gaps."""
    stages = [stage_of(name, "concat", epochs=2, refit_every=1) for name in ("refit", source)]
    (_, first), (_, second) = (run(stage) for stage in stages)
    states = [stage.model.state_dict() for stage in stages]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert torch.equal(first.state["random"]["torch"], second.state["random"]["torch"])
    kept = [
        {name: value for name, value in point.metrics.items() if name.startswith(("val/", "train/loss"))}
        for recorder in (first, second)
        for point in recorder.points
    ]
    assert kept[: len(kept) // 2] == kept[len(kept) // 2 :]
    assert not torch.equal(first.refits[-1].gaps, second.refits[-1].gaps)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("batches", [1, 4])
def test_continued_from_a_checkpoint_it_is_the_same_to_the_last_bit(tmp_path, source, batches):
    """Stopped in the first epoch, and in the second; under `cross_fitted`, not while copies are trained."""
    reference = stage_of(source, epochs=2, refit_every=1)
    whole, _ = run(reference)
    stage, recorder = stage_of(source, epochs=2, refit_every=1), ListRecorder()
    training = []
    update = stage.method.update
    stage.method.update = lambda *words: training.append(True) or update(*words)
    with pytest.raises(Interrupted):
        run(stage, lambda: len(training) > batches, recorder)
    write_checkpoint(recorder.state, tmp_path / "last")

    torch.manual_seed(999)
    continued = stage_of(source, epochs=2, refit_every=1)
    progress = loop.restore(continued, read_checkpoint(tmp_path / "last"))
    loop.fit(continued, progress, ListRecorder(), never)
    assert torch.equal(progress.gap_fit.gaps, whole.gap_fit.gaps)
    assert progress.gap_fit.source == source
    assert torch.equal(continued.method.posterior_table, reference.method.posterior_table)
    for name, value in reference.model.state_dict().items():
        assert torch.equal(value, continued.model.state_dict()[name]), name


def test_a_stop_while_copies_are_trained_leaves_the_state_before_the_epoch():
    whole, _ = run(stage_of("cross_fitted", epochs=2, refit_every=1))
    stage = stage_of("cross_fitted", epochs=2, refit_every=1)

    class Copying(ListRecorder):
        def save(self, state):
            super().save(copy.deepcopy(state))

    recorder = Copying()
    updates, update = [], stage.method.update
    stage.method.update = lambda *words: updates.append(True) or update(*words)
    polls = []

    def stop():
        polls.append(len(updates))
        return polls.count(6) > 3  # three batches an epoch: after the second epoch's last, copies are trained

    with pytest.raises(Interrupted):
        run(stage, stop, recorder)
    assert recorder.state["progress"]["stage_epoch"] == 1
    again = stage_of("cross_fitted", epochs=2, refit_every=1)
    progress = loop.restore(again, recorder.state)
    loop.fit(again, progress, ListRecorder(), never)
    assert torch.equal(progress.gap_fit.gaps, whole.gap_fit.gaps)


def test_passes_of_copies_are_counted_where_the_method_needs_the_gaps():
    counts = {}
    for method in ("concat", "gap_mixture"):
        for source in ("refit", "cross_fitted"):
            stage = stage_of(source, method, epochs=1)
            run(stage)
            counts[method, source] = stage.model.passes.totals()[1]
    assert counts["concat", "cross_fitted"] == counts["concat", "refit"]
    # Two modalities, 24 samples, each in three of four copies, of 2 and of 3 epochs.
    assert counts["gap_mixture", "cross_fitted"] - counts["gap_mixture", "refit"] == 2 * 24 * 3 * (2 + 3)


def test_checkpoints_from_before_there_were_sources_are_restored():
    _, recorder = run(stage_of("refit", epochs=1))
    state = copy.deepcopy(recorder.state)
    del state["seen"], state["refit"]["source"]
    progress = loop.restore(stage_of("refit", epochs=1), state)
    assert progress.seen is None
    assert progress.gap_fit.source == "refit"
