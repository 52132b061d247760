"""Loss mixture: the control without doubts, then the doubts of each modality's own losses."""

from types import SimpleNamespace

import pytest
import torch

from mm_balance.functional.adaptive import warmup_loss
from mm_balance.functional.discount import UNSEEN, loss_doubts, running_mean
from mm_balance.methods.loss_mixture import LossMixture
from mm_balance.types import Batch, Clock

SAMPLES = 40
CLASSES = 5


def batch_and_output(modalities):
    """Outputs that know their class, but for the first four samples of the last modality, which point away from it."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(SAMPLES) % CLASSES
    right = 3 * torch.eye(CLASSES)[labels]
    unimodal = {name: right + 0.3 * torch.randn(SAMPLES, CLASSES, generator=generator) for name in modalities}
    unimodal[modalities[-1]][:4] = -6 * torch.eye(CLASSES)[labels[:4]]
    output = SimpleNamespace(fused=torch.randn(SAMPLES, CLASSES, generator=generator), unimodal=unimodal)
    return Batch(inputs={}, labels=labels, index=torch.arange(SAMPLES)), output


def method_of(modalities, **options):
    return LossMixture(LossMixture.Options(**options), modalities, SAMPLES)


def loss_at(method, stage_epoch):
    batch, output = batch_and_output(method.modalities)
    return method.loss(lambda inputs: output, batch, Clock(stage_epoch, stage_epoch, 12))


def train(method, epochs):
    """Show the same outputs for some epochs; return the last plan."""
    batch, _ = batch_and_output(method.modalities)
    for epoch in range(epochs):
        method.refresh(None, None, Clock(epoch, epoch, 12))
        method.modulate(None, loss_at(method, epoch), batch, Clock(epoch, epoch, 12))
    return method.refresh(None, None, Clock(epochs, epochs, 12))


@pytest.mark.parametrize(("options", "epochs"), [({}, 2), ({"start_epoch": 9}, 8), ({"persistence": 7}, 6)])
def test_without_doubts_it_is_the_control_to_the_last_bit(options, epochs):
    method = method_of(("audio", "visual"), **options)
    train(method, epochs)
    batch, output = batch_and_output(method.modalities)
    expected = warmup_loss(output.fused, output.unimodal, batch.labels, unimodal_weight=4.0).total
    assert torch.equal(loss_at(method, epochs).total, expected)
    if options != {"persistence": 7}:
        assert not torch.equal(loss_at(method, max(3, options.get("start_epoch", 0))).total, expected)


@pytest.mark.parametrize("modalities", [("depth",), ("audio", "visual"), ("audio", "visual", "depth")])
def test_the_losses_of_broken_samples_are_discounted_in_their_modality_and_fused(modalities):
    method = method_of(modalities, unimodal_weight=2.0)
    notes = train(method, 3).notes
    batch, output = batch_and_output(modalities)
    probabilities = torch.stack(
        [x.double().softmax(dim=1)[batch.index, batch.labels] for x in output.unimodal.values()]
    )
    doubts = loss_doubts(running_mean(running_mean(probabilities, probabilities, 0.7), probabilities, 0.7))
    assert (doubts[-1, :4] > 0.99).all()
    assert (doubts[-1, 4:] < 0.01).all()
    assert notes == pytest.approx(
        {f"method/doubt_{name}": float(doubts[row].mean()) for row, name in enumerate(modalities)}
    )

    fused, *each = [-x.log_softmax(dim=1)[batch.index, batch.labels] for x in (output.fused, *output.unimodal.values())]
    unimodal = torch.stack(each)
    discounted = {
        "fusion": ((1 - doubts.amax(dim=0)) * fused).mean(),
        "unimodal": 2 * ((1 - doubts) * unimodal).sum(dim=0).mean(),
    }
    plain = {"fusion": fused.mean(), "unimodal": 2 * unimodal.sum(dim=0).mean()}
    for choice, expected in {
        "both": discounted,
        "unimodal": {**discounted, "fusion": plain["fusion"]},
        "fused": {**discounted, "unimodal": plain["unimodal"]},
    }.items():
        part = method_of(modalities, unimodal_weight=2.0, discounted=choice)
        train(part, 3)
        loss = loss_at(part, 3)
        torch.testing.assert_close(loss.parts, expected)
        torch.testing.assert_close(loss.total, expected["fusion"] + expected["unimodal"])


def test_a_doubt_is_the_smallest_of_the_latest_epochs():
    method = method_of(("audio", "visual"), persistence=3, start_epoch=1)
    history = torch.rand(3, 2, SAMPLES, generator=torch.Generator().manual_seed(0))
    method.history.copy_(history)
    batch, output = batch_and_output(method.modalities)
    each = torch.stack([-x.log_softmax(dim=1)[batch.index, batch.labels] for x in output.unimodal.values()])
    expected = 4 * ((1 - history.amin(dim=0)) * each).sum(dim=0).mean()
    torch.testing.assert_close(loss_at(method, 3).parts["unimodal"], expected)

    train(method, 1)
    assert torch.equal(method.history[1:], history[:-1]), "the oldest epoch is forgotten, the others move on"
    assert not torch.equal(method.history[0], history[0])


def test_samples_that_an_epoch_did_not_show_keep_their_mean():
    method = method_of(("audio", "visual"))
    train(method, 1)
    before = method.running.clone()
    assert (method.latest == UNSEEN).all()
    method.latest[:, :10] = 0.5
    method.refresh(None, None, Clock(2, 2, 12))
    assert torch.equal(method.running[:, 10:], before[:, 10:])
    torch.testing.assert_close(method.running[:, :10], 0.7 * before[:, :10] + 0.3 * 0.5)
