"""What the callbacks share: a survey gives the gaps of our own, and leaves no trace in the training."""

import importlib
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mm_balance import LossWeights, adaptive_loss, modality_gap
from mm_balance.engine.predictions import predict_split
from mm_balance.functional.gap_fits import fit_gaps
from mm_balance.integrations.surveys import GapSurveys, survey
from mm_balance.testing import tiny_stage
from tests.integrations.rows import METHOD, Rows, logits_of, several_of

CPU = torch.device("cpu")


def stay(batch):
    return batch


@pytest.fixture
def network(tiny_data):
    return tiny_stage(METHOD, data=tiny_data).model


def test_the_gaps_are_those_of_our_own_survey(tiny_data):
    stage, split = tiny_stage(METHOD, data=tiny_data), tiny_data.splits["train"]
    ours = fit_gaps(predict_split(stage.model, stage.method, split, CPU), 0, "two")
    measured = survey(stage.model, DataLoader(Rows(split), 7), logits_of, stay)
    torch.testing.assert_close(measured.gaps, ours.gaps, atol=1e-6, rtol=0)
    torch.testing.assert_close(measured.fused_probability, ours.fused_probability, atol=1e-6, rtol=0)
    torch.testing.assert_close(measured.posterior_imbalanced, ours.posterior_imbalanced, atol=1e-3, rtol=0)
    assert measured.samples == split.samples


def test_several_true_classes_are_surveyed_kept_and_trained_with(network, tiny_data):
    loader = DataLoader(Rows(tiny_data.splits["train"]), 7)
    surveys, restored = GapSurveys(several_of, loader), GapSurveys(several_of, loader)
    surveys._survey(network, 2, stay)
    with torch.no_grad():
        expected = [modality_gap(*several_of(network.eval(), batch)[:2]) for batch in loader]
    torch.testing.assert_close(surveys.measured.gaps.float(), torch.cat(expected), atol=1e-6, rtol=0)
    assert surveys.measured.is_multi_label
    restored._restore(surveys._state())
    assert torch.equal(restored.measured.labels, surveys.measured.labels)
    batch = next(iter(loader))
    unimodal, labels, ids, fused = several_of(network.train(), batch)
    adaptive_loss(
        fused, unimodal, labels, posterior_imbalanced=restored.posterior_imbalanced(ids), balanced_mean=restored.balanced_mean,
        weights=LossWeights(), anneal=1.0,
    ).total.backward()  # fmt: skip
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def test_a_survey_leaves_modes_gradients_and_random_states_as_they_were(network, tiny_data):
    network.train()
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    frozen.eval()
    modes = [module.training for module in network.modules()]
    running = frozen.running_mean.clone()
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Rows(tiny_data.splits["train"]), 8, shuffle=True, generator=generator)
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(0)
    expected = random.random(), np.random.rand(), torch.rand(1)
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(0)
    drawn = generator.get_state()

    def noisy(model, batch):
        assert not model.training
        assert not torch.is_grad_enabled()
        random.random(), np.random.rand(), torch.rand(1)
        return logits_of(model, batch)

    survey(network, loader, noisy, stay)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert torch.equal(generator.get_state(), drawn)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(frozen.running_mean, running)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modes_are_restored_after_an_error_too(network, tiny_data):
    network.train()

    def broken(model, batch):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        survey(network, DataLoader(Rows(tiny_data.splits["train"]), 8), broken, stay)
    assert network.training


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda logits, labels, ids: logits,
            "must return a tuple of logits by modality, labels and sample ids.*got dict",
        ),
        (lambda logits, labels, ids: (logits, labels), "got tuple of dict, Tensor"),
        (lambda logits, labels, ids: (labels, logits, ids), "got tuple of Tensor, dict, list"),
        (
            lambda logits, labels, ids: (logits, labels, ["the same"] * len(ids)),
            "the sample id the same is given more than once",
        ),
    ],
)
def test_what_logits_may_not_return(network, tiny_data, returned, message):
    loader = DataLoader(Rows(tiny_data.splits["train"]), 8)
    with pytest.raises(ValueError, match=message):
        survey(network, loader, lambda model, batch: returned(*logits_of(model, batch)[:3]), stay)


def test_a_loader_without_batches(network):
    with pytest.raises(ValueError, match="the loader of the survey has no batch"):
        survey(network, [], logits_of, stay)


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_without_the_library_it_names_the_extra(library, monkeypatch):
    monkeypatch.delitem(sys.modules, f"mm_balance.integrations.{library}", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("lightning", "transformers", "accelerate")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("lightning", "transformers", "accelerate"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'mm-balance\[{library}\]'"):
        importlib.import_module(f"mm_balance.integrations.{library}")


def test_before_the_first_survey_it_says_what_to_do():
    surveys = GapSurveys(logits_of, [], start=4)
    with pytest.raises(ValueError, match=r"no survey yet \(the first one comes after 4 epochs\)"):
        surveys.posterior_imbalanced(["a"])
    with pytest.raises(ValueError, match="no survey yet"):
        _ = surveys.balanced_mean


@pytest.mark.parametrize("wrong", [{"every": 0}, {"start": -1}, {"kind": "four"}])
def test_settings_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=r"every=0|start=-1|kind=four"):
        GapSurveys(logits_of, [], **wrong)


def test_surveys_are_due_at_intervals_and_at_once_where_there_is_none(network, tiny_data):
    surveys = GapSurveys(logits_of, DataLoader(Rows(tiny_data.splits["train"]), 8), start=2, every=3)
    assert [epoch for epoch in range(6) if surveys._is_due(epoch)] == [2, 3, 4, 5]
    surveys._survey(network, 2, stay)
    assert [epoch for epoch in range(9) if surveys._is_due(epoch)] == [2, 5, 8]


def test_a_state_restores_the_surveys(network, tiny_data, tmp_path):
    loaders = [DataLoader(Rows(tiny_data.splits[name]), 8) for name in ("train", "val")]
    before, after = (GapSurveys(logits_of, loaders[0], validation=loaders[1]) for _ in range(2))
    after._restore(before._state())
    assert after.measured is None
    before._survey(network, 4, stay)
    torch.save(before._state(), tmp_path / "state")
    after._restore(torch.load(tmp_path / "state", weights_only=True))
    ids = tiny_data.splits["train"].samples[3:9]
    assert torch.equal(after.posterior_imbalanced(ids), before.posterior_imbalanced(ids))
    assert after.balanced_mean == before.balanced_mean
    assert after.measured.epoch == after.validation_measured.epoch == 4
    assert after.validation_measured.samples == tiny_data.splits["val"].samples
