"""Generalized cross-entropy as a method: the control first, then Eq. 6 on every prediction."""

from types import SimpleNamespace

import torch

from mm_balance.functional.adaptive import warmup_loss
from mm_balance.methods.gce import Gce
from mm_balance.types import Batch, Clock

MODALITIES = ("audio", "visual")


def test_before_its_start_it_is_the_control_to_the_last_bit_and_then_the_mean_of_each_prediction():
    method = Gce(Gce.Options(power=0.5, unimodal_weight=2.0, start_epoch=2), MODALITIES, 3)
    fused, audio, visual = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(2))
    output = SimpleNamespace(fused=fused, unimodal={"audio": audio, "visual": visual})
    labels = torch.tensor([0, 3, 1])
    batch = Batch(inputs={}, labels=labels, index=torch.arange(3))

    early = method.loss(lambda inputs: output, batch, Clock(1, 1, 5))
    assert torch.equal(early.total, warmup_loss(fused, output.unimodal, labels, unimodal_weight=2.0).total)

    late = method.loss(lambda inputs: output, batch, Clock(2, 2, 5))
    per_prediction = [
        2 * (1 - value.softmax(dim=1)[range(3), labels].sqrt()).mean() for value in (fused, audio, visual)
    ]
    torch.testing.assert_close(late.parts["fusion"], per_prediction[0])
    torch.testing.assert_close(late.parts["unimodal"], 2 * (per_prediction[1] + per_prediction[2]))
    torch.testing.assert_close(late.total, late.parts["fusion"] + late.parts["unimodal"])
