"""Posterior discount: the control without doubts, and the right doubts at the right time."""

from types import SimpleNamespace

import pytest
import torch

from mm_balance.functional.adaptive import warmup_loss
from mm_balance.functional.discount import UNSEEN, modality_doubts, running_mean
from mm_balance.methods.posterior_discount import PosteriorDiscount
from mm_balance.types import Batch, Clock

SAMPLES = 40
MODALITIES = ("audio", "visual")


def method_of(**options):
    return PosteriorDiscount(PosteriorDiscount.Options(**options), MODALITIES, SAMPLES)


def batch_and_output():
    generator = torch.Generator().manual_seed(1)
    fused, audio, visual = torch.randn(3, SAMPLES, 5, generator=generator)
    labels = torch.arange(SAMPLES) % 5
    # Images of the first four samples are broken: they point away from their class.
    visual[:4] = -6 * torch.eye(5)[labels[:4]]
    output = SimpleNamespace(fused=fused, unimodal={"audio": audio, "visual": visual})
    return Batch(inputs={}, labels=labels, index=torch.arange(SAMPLES)), output


def loss_at(method, stage_epoch, stage_epochs=12):
    batch, output = batch_and_output()
    return method.loss(lambda inputs: output, batch, Clock(stage_epoch, stage_epoch, stage_epochs))


def train(method, epochs):
    """Show the same outputs for some epochs; return the last plan."""
    batch, _ = batch_and_output()
    for epoch in range(epochs):
        method.refresh(None, None, Clock(epoch, epoch, 12))
        method.modulate(None, loss_at(method, epoch), batch, Clock(epoch, epoch, 12))
    return method.refresh(None, None, Clock(epochs, epochs, 12))


def control(weight=4.0):
    batch, output = batch_and_output()
    return warmup_loss(output.fused, output.unimodal, batch.labels, unimodal_weight=weight).total


@pytest.mark.parametrize(
    ("options", "epochs"), [({"discount": 0.0, "persistence": 1}, 5), ({"persistence": 7}, 6), ({"start_epoch": 9}, 8)]
)
def test_without_doubts_it_is_the_control_to_the_last_bit(options, epochs):
    method = method_of(**options)
    train(method, epochs)
    assert torch.equal(loss_at(method, epochs).total, control())


def test_doubts_are_those_of_the_running_probabilities():
    method = method_of(persistence=1, start_epoch=1)
    notes = train(method, 3).notes
    batch, output = batch_and_output()
    seen = torch.stack([value.double().softmax(dim=1)[batch.index, batch.labels] for value in output.unimodal.values()])
    doubts = modality_doubts(running_mean(running_mean(seen, seen, 0.7), seen, 0.7), margin=1.0)
    assert notes == pytest.approx(
        {"method/doubt_audio": float(doubts[0].mean()), "method/doubt_visual": float(doubts[1].mean())}
    )
    assert (doubts[1, :4] > 0.5).all()
    fused, *each = [
        torch.nn.functional.cross_entropy(value, batch.labels, reduction="none")
        for value in (output.fused, *output.unimodal.values())
    ]
    expected = ((1 - doubts.amax(dim=0)) * fused).mean() + 4 * ((1 - doubts) * torch.stack(each)).sum(dim=0).mean()
    torch.testing.assert_close(loss_at(method, 3).total, expected)
    for discounted, terms in {
        "unimodal": fused.mean() + 4 * ((1 - doubts) * torch.stack(each)).sum(dim=0).mean(),
        "fused": ((1 - doubts.amax(dim=0)) * fused).mean() + 4 * torch.stack(each).sum(dim=0).mean(),
    }.items():
        part = method_of(persistence=1, start_epoch=1, discounted=discounted)
        train(part, 3)
        torch.testing.assert_close(loss_at(part, 3).total, terms)


def test_a_doubt_is_the_smallest_of_the_latest_epochs():
    method = method_of(persistence=3, start_epoch=1)
    history = torch.rand(3, 2, SAMPLES, generator=torch.Generator().manual_seed(0))
    method.history.copy_(history)
    batch, output = batch_and_output()
    doubts = history.amin(dim=0)
    each = torch.stack(
        [torch.nn.functional.cross_entropy(v, batch.labels, reduction="none") for v in output.unimodal.values()]
    )
    expected = 4 * ((1 - doubts) * each).sum(dim=0).mean()
    torch.testing.assert_close(loss_at(method, 3).parts["unimodal"], expected)


def test_shuffled_doubts_are_the_same_doubts_of_other_samples():
    state = torch.random.get_rng_state()
    shuffled, plain = method_of(shuffled=True), method_of()
    assert torch.equal(torch.random.get_rng_state(), state)
    history = torch.rand(shuffled.history.shape, generator=torch.Generator().manual_seed(0))
    shuffled.history.copy_(history)
    plain.history.copy_(history)
    clock = Clock(9, 9, 12)
    everything = torch.arange(SAMPLES)
    moved, kept = shuffled._doubts(everything, clock), plain._doubts(everything, clock)
    assert not torch.equal(moved, kept)
    assert sorted(map(tuple, moved.T.tolist())) == sorted(map(tuple, kept.T.tolist()))


def test_samples_that_an_epoch_did_not_show_keep_their_mean():
    method = method_of(persistence=1)
    train(method, 1)
    before = method.running.clone()
    batch, _ = batch_and_output()
    part = Batch(inputs={}, labels=batch.labels, index=batch.index)
    method.modulate(None, loss_at(method, 1), part, Clock(1, 1, 12))
    method.latest[:, 10:] = UNSEEN
    method.latest[:, :10] = 0.5
    method.refresh(None, None, Clock(2, 2, 12))
    assert torch.equal(method.running[:, 10:], before[:, 10:])
    torch.testing.assert_close(method.running[:, :10], 0.7 * before[:, :10] + 0.3 * 0.5)
