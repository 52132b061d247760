"""Batches: every sample once, in an order that only the seed and the epoch decide."""

from itertools import chain

import pytest
import torch

from mm_balance.data.dataset import BatchLoader, MultimodalData, Split, channel_statistics

CPU = torch.device("cpu")


def make_split(samples, name="train"):
    values = torch.arange(samples, dtype=torch.float32)
    return Split(
        name,
        {"audio": values.view(-1, 1, 1, 1) * torch.ones(1, 1, 2, 3), "visual": (values % 256).byte().view(-1, 1, 1, 1)},
        torch.arange(samples) % 3,
        [f"sample-{place}" for place in range(samples)],
        ["audio" if place == 1 else "" for place in range(samples)],
        ["noise" if place == 1 else "" for place in range(samples)],
    )


def indices(batches):
    return [batch.index.tolist() for batch in batches]


@pytest.mark.parametrize("samples", [1, 2, 7, 8, 9, 16, 17, 30])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_every_sample_once_and_length_is_right(samples, batch_size):
    loader = BatchLoader(make_split(samples), batch_size, seed=3)
    batches = indices(loader.epoch(5, CPU))
    assert sorted(chain(*batches)) == list(range(samples))
    assert len(batches) == len(loader)


@pytest.mark.parametrize("samples", [9, 17, 33])
def test_a_last_batch_of_one_joins_the_one_before(samples):
    sizes = [len(batch) for batch in indices(BatchLoader(make_split(samples), 8).epoch(0, CPU))]
    assert sizes == [8] * (samples // 8 - 1) + [9]


def test_a_smaller_last_batch_is_kept():
    assert [len(batch) for batch in indices(BatchLoader(make_split(10), 8).epoch(0, CPU))] == [8, 2]


def test_the_order_depends_on_seed_and_epoch_alone():
    split = make_split(40)
    loader = BatchLoader(split, 8, seed=1)
    first = indices(loader.epoch(0, CPU))
    torch.manual_seed(999)
    list(loader.epoch(7, CPU))
    assert indices(loader.epoch(0, CPU)) == first
    assert indices(BatchLoader(split, 8, seed=1).epoch(0, CPU)) == first
    assert indices(loader.epoch(1, CPU)) != first
    assert indices(BatchLoader(split, 8, seed=2).epoch(0, CPU)) != first


def test_shuffling_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(BatchLoader(make_split(20), 4, seed=1).epoch(3, CPU))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("start", [0, 1, 3, 5, 9])
def test_start_batch_continues_the_same_epoch(start):
    loader = BatchLoader(make_split(37), 8, seed=4)
    assert indices(loader.epoch(2, CPU, start_batch=start)) == indices(loader.epoch(2, CPU))[start:]


def test_ordered_keeps_index_order_and_drops_nothing():
    batches = indices(BatchLoader(make_split(17), 8).ordered(CPU))
    assert list(chain(*batches)) == list(range(17))
    assert [len(batch) for batch in batches] == [8, 8, 1]


def test_batches_hold_what_their_index_says():
    split = make_split(20)
    for batch in BatchLoader(split, 6, seed=0).epoch(0, CPU):
        assert torch.equal(batch.labels, split.labels[batch.index])
        for name, value in batch.inputs.items():
            assert value.dtype == split.inputs[name].dtype
            assert torch.equal(value, split.inputs[name][batch.index])


def test_subset_takes_everything_along():
    part = make_split(6).subset(torch.tensor([4, 1]))
    assert len(part) == 2
    assert (part.samples, part.corrupted, part.corruption_kind) == (
        ["sample-4", "sample-1"], ["", "audio"], ["", "noise"],
    )  # fmt: skip
    assert part.labels.tolist() == [1, 1]
    assert part.inputs["audio"][:, 0, 0, 0].tolist() == [4.0, 1.0]


def test_train_fraction_is_stratified_and_repeatable():
    splits = {name: make_split(90, name) for name in ("train", "val", "test")}
    data = MultimodalData("x", ("0", "1", "2"), {}, splits, "0", "none", False, {"train": 90}, "a test.")
    smaller = data.with_train_fraction(0.1, seed=0)
    assert torch.bincount(smaller.splits["train"].labels).tolist() == [3, 3, 3]
    assert smaller.counts["train"] == 9
    assert smaller.splits["train"].samples == data.with_train_fraction(0.1, seed=0).splits["train"].samples
    assert len(data.splits["train"]) == 90
    assert len(data.with_train_fraction(0.001, seed=0).splits["train"]) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_channel_statistics_agree_with_torch(dtype):
    values = (torch.rand(150, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 255).to(dtype)
    mean, std = channel_statistics(values, channel=1)
    exact = values.double() / (255 if dtype == torch.uint8 else 1)
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(exact.transpose(0, 1).flatten(1).std(1, correction=0).tolist())


def test_a_constant_channel_has_a_standard_deviation_above_zero():
    assert channel_statistics(torch.ones(4, 1, 2, 2), channel=1) == ((1.0,), (1e-6,))


def test_frames_are_no_channels():
    values = torch.stack([torch.zeros(6, 2, 4, 4), torch.ones(6, 2, 4, 4)], dim=2)  # (samples, frames, channels, ...)
    assert channel_statistics(values, channel=2)[0] == (0.0, 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_go_to_the_device():
    batch = next(iter(BatchLoader(make_split(8), 4).epoch(0, torch.device("cuda"))))
    assert {value.device.type for value in (*batch.inputs.values(), batch.labels, batch.index)} == {"cuda"}
