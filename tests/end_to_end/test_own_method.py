"""The example method, with a head of its own, outside the package: every entry point is a process of its own."""

import pytest

from tests.helpers.commands import newest, runs
from tests.helpers.outside import write_module
from tests.helpers.processes import ROOT, start_command

pytestmark = pytest.mark.slow


@pytest.mark.verify
@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.verify)])
def test_a_method_of_the_current_folder_is_trained_continued_and_evaluated(store, forked):
    here, elsewhere = store / "here", store / "elsewhere"
    elsewhere.mkdir()
    write_module(here, "my_methods", (ROOT / "examples" / "own_method.py").read_text("utf-8"))

    def run(folder, entry_point, *words):
        """What the entry point says in ``folder``, and its exit status."""
        process = start_command(store, entry_point, words, forked=forked, folder=folder)
        return process.wait(timeout=300), process.said()

    words = ("--preset", "quick", "--device", "cpu", "--train_fraction", "0.1")
    status, said = run(here, "train", "--method", "my_methods:Smoothed", "--method_options", "temperature=4.0", *words)
    assert status == 0, said
    (trained,) = runs()
    assert trained.info.run_name == "smoothed digits seed 0, preset=quick train_fraction=0.1 temperature=4.0"
    assert trained.data.tags["mm.method"] == "smoothed"
    assert trained.data.params["config/method"] == "my_methods:Smoothed"
    assert trained.data.params["method/temperature"] == "4.0"
    more = str(int(trained.data.metrics["selection/last_epoch"]) + 1)
    status, said = run(here, "train", "--resume_run", trained.info.run_id, "--epochs", more)
    assert status == 0, said
    (longer,) = runs()
    assert str(int(longer.data.metrics["selection/last_epoch"])) == more
    assert longer.data.tags["mm.code"] == trained.data.tags["mm.code"]
    assert "mm.mixed" not in longer.data.tags
    status, said = run(here, "train", "--method", "my_methods:Smooth", *words)
    assert status == 1
    assert said.splitlines()[-1] == (
        "mm-balance: error: method=my_methods:Smooth: my_methods has no Smooth; its Method classes: Smoothed"
    )
    # The model takes the head's source along: where it is loaded, there need be no such module.
    status, said = run(elsewhere, "evaluate", "--run_id", trained.info.run_id, "--split", "val", "--device", "cpu")
    assert status == 0, said
    assert newest(stage="evaluate").data.metrics["val/accuracy"] == longer.data.metrics["val/accuracy"]
