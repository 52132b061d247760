"""Checkpoints: atomic, tensors and primitives only, clear errors."""

import io
import random

import pytest
import torch

from mm_balance.engine import checkpoint
from mm_balance.engine.checkpoint import (
    Damaged,
    gap_fit_from_state,
    gap_fit_to_state,
    read_checkpoint,
    write_checkpoint,
)
from mm_balance.errors import UserError
from mm_balance.functional.gap_fits import fit_gaps_from_probabilities


def make_refit():
    generator = torch.Generator().manual_seed(0)
    audio = torch.rand(50, generator=generator, dtype=torch.float64)
    visual = torch.rand(50, generator=generator, dtype=torch.float64)
    return fit_gaps_from_probabilities(
        {"audio": audio, "visual": visual}, audio, torch.arange(50) % 3, 4, "two", samples_digest="ids"
    )


def test_a_refit_survives_the_way_through_a_file(tmp_path):
    refit = make_refit()
    write_checkpoint({"refit": gap_fit_to_state(refit)}, tmp_path / "folder" / "last")
    back = gap_fit_from_state(read_checkpoint(tmp_path / "folder" / "last")["refit"])
    assert back.mixture == refit.mixture
    assert torch.equal(back.posterior_imbalanced, refit.posterior_imbalanced)
    assert torch.equal(back.gaps, refit.probabilities["audio"] - refit.probabilities["visual"])
    assert back.epoch == 4
    assert back.samples_digest == "ids"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "last"
    write_checkpoint({"value": 1}, path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_checkpoint({"value": 2}, path)
    assert read_checkpoint(path)["value"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_truncated_files_are_refused(tmp_path, kept):
    path = tmp_path / "last"
    write_checkpoint({"value": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        read_checkpoint(tmp_path / "nothing")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        read_checkpoint(tmp_path / "foreign")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"format": 1, "evil": Evil()}, tmp_path / "evil")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "evil")


WEIGHTS = {"value": torch.arange(600.0), "names": ["audio", "visual"], "nested": {"epoch": 3}}


def test_every_flipped_bit_and_every_cut_is_noticed_and_the_file_is_named(tmp_path):
    path = tmp_path / "last"
    write_checkpoint(WEIGHTS, path)
    whole = path.read_bytes()
    draw = random.Random(20261130)
    end = range(8 * (len(whole) - 100), 8 * len(whole), 5)  # of the archive, and the digest
    for bit in [*draw.sample(range(8 * len(whole)), 300), *end]:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(Damaged, match=str(path)):
            read_checkpoint(path)
    for kept in [*draw.sample(range(len(whole)), 100), *range(len(whole) - 100, len(whole))]:
        path.write_bytes(whole[:kept])
        with pytest.raises(Damaged, match=str(path)):
            read_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        read_checkpoint(path)


def test_a_checkpoint_is_an_ordinary_file_of_torch(tmp_path):
    write_checkpoint(WEIGHTS, tmp_path / "last")
    assert torch.equal(torch.load(tmp_path / "last", weights_only=True)["value"], WEIGHTS["value"])


def test_a_checkpoint_of_an_older_version_is_read_with_a_remark(tmp_path, capsys):
    checkpoint._say_unchecked.cache_clear()
    buffer = io.BytesIO()
    torch.save({"format": 2, **WEIGHTS}, buffer)
    path = tmp_path / "last"
    path.write_bytes(buffer.getvalue())
    assert torch.equal(read_checkpoint(path)["value"], WEIGHTS["value"])
    assert "has no checksum" in capsys.readouterr().err
    draw = random.Random(20261130)
    for _ in range(300):  # whatever a flipped bit does there, it is no traceback
        changed = bytearray(buffer.getvalue())
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except UserError:
            continue
    assert capsys.readouterr().err == ""  # said once


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_kept(tmp_path, monkeypatch, links):
    def refused(*words):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refused)
    for value in (1, 2, 3):
        write_checkpoint({"value": value}, tmp_path / "last", previous=tmp_path / "previous")
    assert read_checkpoint(tmp_path / "last")["value"] == 3
    assert read_checkpoint(tmp_path / "previous")["value"] == 2
    assert sorted(item.name for item in tmp_path.iterdir()) == ["last", "previous"]
