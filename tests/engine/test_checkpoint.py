"""Checkpoints: atomic, tensors and primitives only, clear errors."""

import pytest
import torch

from mm_balance.engine.checkpoint import gap_fit_from_state, gap_fit_to_state, read_checkpoint, write_checkpoint
from mm_balance.engine.predictions import fit_gaps_from_probabilities
from mm_balance.errors import UserError


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
