"""A quick run for each source of the training samples' gaps, all from the same warm-up."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.stage import saved_state
from tests.helpers.commands import QUICK, artifacts, do, fetch, newest, values

pytestmark = pytest.mark.usefixtures("signals", "store")
SOURCES = ("refit", "running", "cross_fitted")
SETTINGS = f"{QUICK} adaptive_epochs=1"


@pytest.mark.verify
def test_every_source_trains_from_one_warm_up_and_its_page_says_which_it_is():
    assert do("warmup", QUICK) == 0
    warmup = newest(stage="warmup")
    assert "gap_source" not in " ".join(warmup.data.params)
    warmup_state = saved_state(TrackedRun(warmup.info.run_id))
    found = {}
    for source in SOURCES:
        assert do("adaptive", f"{SETTINGS} gap_source={source}") == 0
        run = found[source] = newest(stage="adaptive")
        assert run.data.tags["mm.warmup_run"] == warmup.info.run_id
        assert run.data.params["config/gap_source"] == source
        assert f"(`gap_source={source}`)" in run.data.tags["mlflow.note.content"]
        assert saved_state(TrackedRun(run.info.run_id))["refit"]["source"] == source
        for epoch in ("0002", "0003"):
            folder = f"refits/epoch_{epoch}"
            assert f"{folder}/validation_gaps.parquet" in artifacts(run, folder)
            with Image.open(io.BytesIO(fetch(run, f"{folder}/density.png").read_bytes())) as picture:
                assert picture.size == (1200, 660)
    first = {
        source: pd.read_parquet(fetch(run, "refits/epoch_0002/gaps.parquet"))["gap"] for source, run in found.items()
    }
    expected = warmup_state["seen"]["running"]
    np.testing.assert_array_equal(first["refit"], warmup_state["refit"]["gaps"])
    np.testing.assert_array_equal(first["running"], expected[0] - expected[1])
    assert np.abs(first["cross_fitted"] - first["refit"]).max() > 0.01
    # Validation is surveyed alike: of the first fit it is the warm-up's own.
    before = values(warmup, ("val/density_at_zero",))["val/density_at_zero"]
    assert all(values(run, ("val/density_at_zero",))["val/density_at_zero"][:1] == before for run in found.values())
    assert len({run.data.tags["mm.settings"] for run in found.values()}) == 3
