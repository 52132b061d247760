"""Planted corruption: who gets what, and what the network then sees, on a prepared set."""

from collections import Counter

import numpy as np
import pytest
import torch

from mm_balance.data import BatchLoader, Corruption
from mm_balance.data.corruption import plan_corruption, plant
from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.errors import UserError
from tests.helpers.manifests import OPTIONS, Folder, seen

INPUTS = {"audio": "sound", "visual": "image"}
LABELS = np.arange(3500) % 10


@pytest.mark.parametrize("kind", ["mixed", "noise", "blank", "other", "mismatch"])
@pytest.mark.parametrize("share", [0.0, 0.0003, 0.1, 0.333, 0.5])
def test_the_share_is_exact_and_even(share, kind):
    plan = plan_corruption(LABELS, INPUTS, Corruption(share, kind), seed=0)
    count = round(share * 3500)
    assert (plan.modality == "audio").sum() == (count + 1) // 2
    assert (plan.modality == "visual").sum() == count // 2
    assert ((plan.kind != "") == (plan.modality != "")).all()
    per_class = np.bincount(LABELS[plan.modality != ""], minlength=10)
    assert per_class.max() - per_class.min() <= 1
    if kind == "mixed":
        assert set(plan.kind[plan.modality == "visual"]) <= {"noise", "other"}
        sounds = Counter(plan.kind[plan.modality == "audio"])
        assert max(sounds.values(), default=0) - min(sounds.values(), default=0) <= 1
    else:
        assert set(plan.kind) <= {"", kind}


@pytest.mark.parametrize("kind", ["other", "mismatch"])
def test_another_samples_input_is_of_another_class(kind):
    plan = plan_corruption(LABELS, INPUTS, Corruption(0.4, kind), seed=0)
    for modality, source in plan.sources.items():
        members = plan.modality == modality
        assert (LABELS[source[members]] != LABELS[members]).all()
        assert (source[~members] == np.arange(3500)[~members]).all()
        if kind == "mismatch":
            assert sorted(source[members]) == list(np.flatnonzero(members)), "each still occurs once"
    assert (plan.labels == LABELS).all()


def test_exchange_copes_with_a_class_of_more_than_half():
    labels = np.array([0] * 90 + [1] * 10)
    plan = plan_corruption(labels, INPUTS, Corruption(0.5, "mismatch"), seed=0)
    for modality, source in plan.sources.items():
        members = plan.modality == modality
        assert (labels[source[members]] != labels[members]).all()


def test_wrong_labels_are_of_every_other_class():
    plan = plan_corruption(LABELS, INPUTS, Corruption(0.3, "label"), seed=0)
    wrong = plan.labels != LABELS
    assert wrong.sum() == 1050
    assert (plan.modality[wrong] == "label").all()
    assert (plan.modality[~wrong] == "").all()
    assert len(set(zip(LABELS[wrong], plan.labels[wrong], strict=True))) == 90
    assert all((source == np.arange(3500)).all() for source in plan.sources.values())


def test_one_modality_alone_can_be_corrupted_and_any_number_shares():
    plan = plan_corruption(LABELS, INPUTS, Corruption(0.2, "noise", "visual"), seed=0)
    assert Counter(plan.modality) == {"": 2800, "visual": 700}
    inputs = {"audio": "sound", "visual": "image", "depth": "image"}
    assert Counter(plan_corruption(LABELS, inputs, Corruption(0.3), seed=0).modality) == {
        "": 2450, "audio": 350, "visual": 350, "depth": 350,
    }  # fmt: skip


def test_the_data_seed_alone_draws():
    first, again, other = (plan_corruption(LABELS, INPUTS, Corruption(0.2), seed=seed).modality for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("share", [-0.1, 0.51, float("nan")])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(UserError, match="corruption"):
        Corruption(share)


def test_an_unknown_modality_is_refused():
    with pytest.raises(UserError, match="corruption_modality=depth: the data have the modalities audio, visual"):
        plan_corruption(LABELS, INPUTS, Corruption(0.1, "noise", "depth"), seed=0)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("data")).fill(counts=(("train", 20), ("val", 2), ("test", 2))).load()


def corrupted(clean, kind, share=0.4):
    return plant(clean, Corruption(share, kind), OPTIONS, seed=0)


@pytest.mark.parametrize("kind", ["noise", "blank", "other", "mismatch", "mixed"])
def test_training_samples_change_where_the_truth_says_so_and_nowhere_else(clean, kind):
    data = corrupted(clean, kind)
    train = data.splits["train"]
    before, after = seen(clean.splits["train"]), seen(train)
    for modality in INPUTS:
        changed = (before[modality] != after[modality]).flatten(1).any(1)
        assert changed.tolist() == [name == modality for name in train.corrupted]
    assert Counter(train.corrupted) == {"": 24, "audio": 8, "visual": 8}
    assert train.labels.tolist() == clean.splits["train"].labels.tolist()
    assert data.truth_known
    assert data.counts["corrupted"] == 16
    for name in ("val", "test"):
        assert all(torch.equal(seen(data.splits[name])[m], seen(clean.splits[name])[m]) for m in INPUTS)


def test_blank_is_what_silence_and_black_become_and_noise_is_not(clean):
    train = corrupted(clean, "blank").splits["train"]
    values = seen(train)
    silence = AUDIO_RECIPES["logmel64"].compute(np.zeros(1600, np.float32), 0.1)
    assert np.array_equal(values["audio"][train.corrupted.index("audio")].numpy(), silence)
    assert not values["visual"][train.corrupted.index("visual")].any()
    train = corrupted(clean, "noise").splits["train"]
    values = seen(train)
    noisy = {name: [index for index, where in enumerate(train.corrupted) if where == name] for name in INPUTS}
    for name, members in noisy.items():
        assert len({values[name][index].numpy().tobytes() for index in members}) == len(members), "not one and the same"
    assert values["audio"][noisy["audio"]].mean() > float(silence.mean()) + 3
    assert values["visual"][noisy["visual"]].float().std() > 50


def test_wrong_labels_reach_training(clean):
    train = corrupted(clean, "label", 0.2).splits["train"]
    wrong = train.labels != clean.splits["train"].labels
    assert wrong.sum() == 8
    assert [name == "label" for name in train.corrupted] == wrong.tolist()


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_corruption_goes_along_with_a_part_of_the_training_split(clean, share):
    data = corrupted(clean, "mixed", share)
    whole, values = data.splits["train"], seen(data.splits["train"])
    index = torch.arange(len(whole)).flip(0)[:25]
    part = whole.subset(index)
    assert part.corrupted == [whole.corrupted[position] for position in index.tolist()]
    assert all(torch.equal(value, values[name][index]) for name, value in seen(part).items())
    half = data.with_train_fraction(0.5, seed=0)
    assert half.counts["corrupted"] == sum(name != "" for name in half.splits["train"].corrupted)


def test_shuffled_batches_show_the_same_corruption(clean):
    train = corrupted(clean, "noise").splits["train"]
    values = seen(train)
    for batch in BatchLoader(train, 7, seed=3).epoch(0, torch.device("cpu")):
        assert all(torch.equal(value, values[name][batch.index]) for name, value in batch.inputs.items())


def test_one_stored_sample_is_shown_as_corrupted(clean):
    train = corrupted(clean, "noise").splits["train"]
    for modality in INPUTS:
        for name in INPUTS:
            position = train.corrupted.index(modality)
            same = torch.equal(train.stored(position)[name], clean.splits["train"].stored(position)[name])
            assert same == (name != modality)


def test_other_data_have_another_digest_and_say_so(clean):
    assert plant(clean, Corruption(0.0), OPTIONS, seed=0) is clean
    noise, other = corrupted(clean, "noise"), corrupted(clean, "other")
    assert len({clean.digest, noise.digest, other.digest}) == 3
    assert noise.recipe.endswith("; corruption 0.4 (noise), data seed 0")
