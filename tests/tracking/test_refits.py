"""A refit on a run: it reads back as it was, and whatever is missing or cut off is noticed and sent again."""

import io
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
from PIL import Image

from mm_balance import names
from mm_balance.engine.checkpoint import gap_fit_to_state
from mm_balance.engine.predictions import fit_gaps_from_probabilities
from mm_balance.errors import UserError
from mm_balance.tracking import refits
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.recorder import MlflowRecorder

SAMPLES = [f"s{place}" for place in range(40)]
CORRUPTED = ["audio", *[""] * 39]
FILES = (names.MIXTURE_FILE, names.DENSITY_FILE, names.GAPS_FILE)


def fit(epoch=2):
    draw = torch.Generator().manual_seed(epoch)
    probabilities = {name: torch.rand(40, generator=draw) for name in ("audio", "visual")}
    return fit_gaps_from_probabilities(
        probabilities,
        torch.rand(40, generator=draw),
        torch.zeros(40, dtype=torch.long),
        epoch,
        "two",
        samples_digest="d",
    )


@pytest.fixture
def run(store):
    return open_run("some run")


@pytest.fixture
def logged(run):
    refits.write_refit(run, fit(), SAMPLES, CORRUPTED)
    return run


def artifacts(run):
    return Path(unquote(urlparse(run.read().info.artifact_uri).path))


def parts(run):
    """The files of the only refit of a run."""
    folder = artifacts(run)
    files = [folder / names.refit_folder(2) / name for name in FILES]
    return [*files, *sorted((folder / "images").iterdir())]


def test_a_refit_reads_back_as_it_was(logged):
    expected, read = fit(), refits.read_refit(logged, 2)
    assert read.epoch == 2
    assert read.mixture == expected.mixture
    np.testing.assert_array_equal(read.gaps, expected.gaps.numpy())
    with Image.open(io.BytesIO(read.density)) as image:
        assert image.format == "PNG"
    table = refits.read_gap_table(logged, 2)
    pd.testing.assert_frame_equal(table, refits.gap_table(expected, SAMPLES, CORRUPTED))
    assert list(table) == [
        "index", "sample", "label", "p_audio", "p_visual", "p_fused", "gap", "posterior_imbalanced", "corrupted"
    ]  # fmt: skip


def test_refits_come_in_order_of_epoch(run):
    assert refits.refit_epochs(run) == []
    assert refits.read_refits(run) == []
    for epoch in (12, 3):
        refits.write_refit(run, fit(epoch), SAMPLES, None)
    assert refits.refit_epochs(run) == [3, 12]
    assert [refit.epoch for refit in refits.read_refits(run)] == [3, 12]
    assert "corrupted" not in refits.read_gap_table(run, 3)
    with pytest.raises(UserError, match=r"has no artifact refits/epoch_0004/"):
        refits.read_gap_table(run, 4)


def test_the_image_has_the_names_that_mlflow_gives_it(logged):
    ((picture, small),) = logged.step_images(names.DENSITY_IMAGE_KEY, 2)
    assert {picture, small} == set(logged.artifact_names("images"))
    assert logged.step_images(names.DENSITY_IMAGE_KEY, 3) == []
    assert logged.step_images("another", 2) == []


def test_only_what_is_all_there_is_complete(logged):
    assert refits.is_complete(logged, 2)
    assert not refits.is_complete(logged, 3)
    refits.write_refit(logged, fit(3), SAMPLES, None)  # another step's image is none of this one's
    for path in (artifacts(logged) / "images").glob("*+step+2+*"):
        path.unlink()
    assert not refits.is_complete(logged, 2)
    assert refits.is_complete(logged, 3)


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("kept", [None, 0.0, 0.5, 0.9])
def test_what_lacks_a_file_or_has_a_part_of_one_is_not_complete_until_it_is_sent_again(logged, part, kept):
    path = parts(logged)[part]
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert not refits.is_complete(logged, 2)
    refits.write_refit(logged, fit(), SAMPLES, CORRUPTED)
    assert refits.is_complete(logged, 2)


def test_an_image_without_the_tag_by_which_mlflow_shows_it_is_not_there(logged):
    MlflowClient().delete_tag(logged.run_id, MLFLOW_LOGGED_IMAGES)
    assert not refits.is_complete(logged, 2)


def test_a_continued_run_sends_its_last_refit_again_only_where_it_is_not_complete(run, tmp_path):
    recorder = MlflowRecorder(run, tmp_path / "work", SAMPLES, CORRUPTED)
    point = {"step": 2, "time": 0, "metrics": {"gap/mean": 0.1}}
    state = {"points": [point], "refit": gap_fit_to_state(fit())}
    recorder.reconcile({**state, "points": []})  # the fit of another run, which this one began from
    assert refits.refit_epochs(run) == []
    for _ in range(2):
        recorder.reconcile(state)
        assert refits.is_complete(run, 2)
        assert len(run.step_images(names.DENSITY_IMAGE_KEY, 2)) == 1
    (artifacts(run) / names.refit_folder(2) / names.GAPS_FILE).unlink()
    recorder.reconcile(state)
    assert refits.is_complete(run, 2)
    assert len(run.metric_series("gap/mean")) == 1
