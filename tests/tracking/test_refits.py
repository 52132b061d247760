"""A refit on a run: it reads back as it was, and whatever is missing or cut off is noticed and sent again."""

import io
from dataclasses import replace
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
from mm_balance.errors import UserError
from mm_balance.functional.gap_fits import fit_gaps_from_probabilities
from mm_balance.tracking import refits
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.recorder import MlflowRecorder

SAMPLES = [f"s{place}" for place in range(40)]
CORRUPTED = ["audio", *[""] * 39]
VALIDATION_SAMPLES = [f"v{place}" for place in range(20)]
FILES = (
    names.MIXTURE_FILE,
    names.DENSITY_FILE,
    names.GAPS_FILE,
    names.VALIDATION_MIXTURE_FILE,
    names.VALIDATION_GAPS_FILE,
)


def fit(epoch=2, samples=40):
    draw = torch.Generator().manual_seed(epoch + samples)
    probabilities = {name: torch.rand(samples, generator=draw) for name in ("audio", "visual")}
    return fit_gaps_from_probabilities(
        probabilities,
        torch.rand(samples, generator=draw),
        torch.zeros(samples, dtype=torch.long),
        epoch,
        "two",
        samples_digest="d",
    )


@pytest.fixture
def run(store):
    return open_run("some run")


def write(run, epoch=2):
    """Log a refit with the validation samples."""
    validation = fit(epoch, samples=20)
    refits.write_refit(
        run, fit(epoch), SAMPLES, CORRUPTED, validation=validation, validation_samples=VALIDATION_SAMPLES
    )


@pytest.fixture
def logged(run):
    write(run)
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


def test_doubts_are_columns_of_the_training_samples():
    doubts = {"audio": torch.zeros(40), "visual": torch.linspace(0, 1, 40)}
    table = refits.gap_table(replace(fit(), doubts=doubts), SAMPLES, CORRUPTED)
    assert list(table)[-3:] == ["doubt_audio", "doubt_visual", "corrupted"]
    np.testing.assert_array_equal(table["doubt_visual"], doubts["visual"].numpy())


def test_the_validation_samples_of_a_refit_read_back_as_they_were(logged, tmp_path):
    expected = fit(samples=20)
    gaps, mixture = refits.read_refit(logged, 2).validation
    np.testing.assert_array_equal(gaps, expected.gaps.numpy())
    assert mixture == expected.mixture
    table = pd.read_parquet(logged.fetch("refits/epoch_0002/validation_gaps.parquet", tmp_path))
    assert list(table) == list(refits.read_gap_table(logged, 2))
    assert list(table["sample"]) == VALIDATION_SAMPLES
    np.testing.assert_array_equal(table["p_visual"], expected.probabilities["visual"].numpy())
    assert set(table["corrupted"]) == {""}


def test_the_density_plot_shows_the_validation_samples(run, monkeypatch):
    drawn = []
    draw = refits.mixture_density
    monkeypatch.setattr(refits, "mixture_density", lambda *gaps, **more: drawn.append(draw(*gaps, **more)) or drawn[-1])
    write(run)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles[0] == "Modality gap after epoch 2: training samples"
    assert any(title.startswith("Validation samples") for title in titles)


def test_a_refit_of_an_older_run_has_no_validation_samples(run):
    refits.write_refit(run, fit(), SAMPLES, CORRUPTED)
    assert refits.read_refit(run, 2).validation is None
    assert refits.is_complete(run, 2)
    assert not refits.is_complete(run, 2, with_validation=True)


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
    ((first, first_small),) = logged.step_images(names.FIRST_IMAGE_KEY, 0)
    ((again, again_small),) = logged.step_images(names.FIRST_IMAGE_KEY, 2)
    expected = {picture, small, first, first_small, again, again_small}
    assert expected == set(logged.artifact_names("images"))
    assert logged.step_images(names.DENSITY_IMAGE_KEY, 3) == []
    assert logged.step_images("another", 2) == []


def test_the_image_that_is_first_on_the_page_begins_with_the_first_fit(run):
    """MLflow's slider begins at step 0, where it would say that there is no image."""
    for epoch in (3, 6):
        refits.write_refit(run, fit(epoch), SAMPLES, None)
    ((begin, _),), ((first, _),), ((second, _),) = (run.step_images(names.FIRST_IMAGE_KEY, step) for step in (0, 3, 6))
    begin, first, second = ((artifacts(run) / path).read_bytes() for path in (begin, first, second))
    assert begin == first != second


def test_only_what_is_all_there_is_complete(logged):
    assert refits.is_complete(logged, 2, with_validation=True)
    assert not refits.is_complete(logged, 3)
    refits.write_refit(logged, fit(3), SAMPLES, None)  # another step's image is none of this one's
    for path in (artifacts(logged) / "images").glob("*+step+2+*"):
        path.unlink()
    assert not refits.is_complete(logged, 2)
    assert refits.is_complete(logged, 3)


@pytest.mark.parametrize("part", range(11))
@pytest.mark.parametrize("kept", [None, 0.0, 0.5, 0.9])
def test_what_lacks_a_file_or_has_a_part_of_one_is_not_complete_until_it_is_sent_again(logged, part, kept):
    path = parts(logged)[part]
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert not refits.is_complete(logged, 2, with_validation=True)
    write(logged)
    assert refits.is_complete(logged, 2, with_validation=True)


def test_an_image_without_the_tag_by_which_mlflow_shows_it_is_not_there(logged):
    MlflowClient().delete_tag(logged.run_id, MLFLOW_LOGGED_IMAGES)
    assert not refits.is_complete(logged, 2)


def test_a_continued_run_sends_its_last_refit_again_only_where_it_is_not_complete(run, tmp_path):
    recorder = MlflowRecorder(run, tmp_path / "work", SAMPLES, CORRUPTED, validation_samples=VALIDATION_SAMPLES)
    point = {"step": 2, "time": 0, "metrics": {"gap/mean": 0.1}}
    state = {
        "points": [point],
        "refit": gap_fit_to_state(fit()),
        "validation_refit": gap_fit_to_state(fit(samples=20)),
    }
    recorder.reconcile({**state, "points": []})  # the fit of another run, which this one began from
    assert refits.refit_epochs(run) == []
    for _ in range(2):
        recorder.reconcile(state)
        assert refits.is_complete(run, 2)
        assert len(run.step_images(names.DENSITY_IMAGE_KEY, 2)) == 1
        assert [len(run.step_images(names.FIRST_IMAGE_KEY, step)) for step in (0, 2)] == [1, 1]
    for file in (names.GAPS_FILE, names.VALIDATION_GAPS_FILE):
        (artifacts(run) / names.refit_folder(2) / file).unlink()
        recorder.reconcile(state)
        assert refits.is_complete(run, 2, with_validation=True)
    assert len(run.metric_series("gap/mean")) == 1


def test_a_state_from_before_there_were_validation_fits_is_published_without(run, tmp_path):
    recorder = MlflowRecorder(run, tmp_path / "work", SAMPLES, CORRUPTED, validation_samples=VALIDATION_SAMPLES)
    point = {"step": 2, "time": 0, "metrics": {"gap/mean": 0.1}}
    recorder.reconcile({"points": [point], "refit": gap_fit_to_state(fit())})
    assert refits.is_complete(run, 2)
    assert refits.read_refit(run, 2).validation is None
